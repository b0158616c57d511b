"""Segmentation of organs and findings: an encoder with small patches and a light decoder, or a linear one.

Legend: B images, S side of a view, G side of the token grid, N = G² tokens, D width, O organs.
"""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexworld_ray.evaluation.augment import training_masks, training_views, whole_mask
from chexworld_ray.evaluation.examples import Examples
from chexworld_ray.evaluation.fit import autocast, fit
from chexworld_ray.evaluation.settings import Decoder, SegmentSettings
from chexworld_ray.metrics.segmentation import dice, hd95
from chexworld_ray.models.backbone import Backbone
from chexworld_ray.views.batch import whole_view

VERSION = 1  # raise it where the same inputs give other scores than before
CHUNK = 32
STEM = 16  # channels of the decoder at full resolution


class LinearDecoder(nn.Module):
    """One matrix on every token; logits are interpolated to the view's side."""

    def __init__(self, width: int, organs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.linear = nn.Conv2d(width, organs, 1)

    def forward(self, grid_BDGG: Tensor, pixels_B1SS: Tensor) -> Tensor:
        """Logits BxOxSxS."""
        logits = self.linear(self.norm(grid_BDGG))
        return F.interpolate(logits, size=pixels_B1SS.shape[-2:], mode="bilinear")


class LightDecoder(nn.Module):
    """Doubles the token grid until it has the view's side, with skips from a thin convolution of the pixels."""

    def __init__(self, width: int, organs: int, grid: int, side: int) -> None:
        super().__init__()
        self.sides = [grid]
        while self.sides[-1] * 2 <= side:
            self.sides.append(self.sides[-1] * 2)
        channels = [STEM * 2 ** min(3, len(self.sides) - 1 - level) for level in range(len(self.sides))]
        self.enter = nn.Conv2d(width, channels[0], 1)
        self.skips = nn.ModuleList(_convolution(1, STEM) for _ in self.sides[1:])
        self.steps = nn.ModuleList(_convolution(before + STEM, after) for before, after in pairwise(channels))
        self.leave = nn.Conv2d(channels[-1], organs, 1)

    def forward(self, grid_BDGG: Tensor, pixels_B1SS: Tensor) -> Tensor:
        """Logits BxOxSxS."""
        found = self.enter(grid_BDGG)
        for side, skip, step in zip(self.sides[1:], self.skips, self.steps, strict=True):
            pixels = F.interpolate(pixels_B1SS, size=(side, side), mode="area")
            found = step(torch.cat([F.interpolate(found, size=(side, side), mode="bilinear"), skip(pixels)], dim=1))
        return F.interpolate(self.leave(found), size=pixels_B1SS.shape[-2:], mode="bilinear")


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.GroupNorm(min(8, after), after), nn.GELU()
    )


class Segmenter(nn.Module):
    """uint8 BxSxS → logits BxOxSxS."""

    def __init__(self, backbone: Backbone, organs: int, kind: Decoder) -> None:
        super().__init__()
        self.backbone, self.frozen = backbone.requires_grad_(kind == "light"), kind == "linear"
        with torch.no_grad():
            side = backbone.image_size
            grid = round(backbone(torch.zeros(1, side, side, dtype=torch.uint8)).shape[1] ** 0.5)
        light = kind == "light"
        self.decoder = (
            LightDecoder(backbone.width, organs, grid, side) if light else LinearDecoder(backbone.width, organs)
        )

    def train(self, mode: bool = True) -> "Segmenter":
        """A frozen encoder stays as it is at test."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def forward(self, views_BSS: Tensor) -> Tensor:
        """Logits."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens_BND = self.backbone(views_BSS)
        grid = round(tokens_BND.shape[1] ** 0.5)
        return self.decoder(tokens_BND.transpose(1, 2).unflatten(2, (grid, grid)), views_BSS[:, None].float() / 255.0)


def segment(
    backbone: Backbone,
    train: Examples,
    val: Examples,
    test: Examples,
    organs: list[str],
    settings: SegmentSettings,
    seed: int,
    device: torch.device,
) -> tuple[list[dict[str, object]], str]:
    """A row (label, image_id, patient_id, truth, score, distance) for each test mask, and which epoch was kept.

    `truth` says whether there is anything to find; `score` is the Dice of the view; `distance` the 95th percentile of
    the distance of the outlines, in per cent of the view's side.
    """
    size = backbone.image_size
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Segmenter(backbone, len(organs), settings.decoder).to(device)
        masks = [[train.masks[organ][at] for organ in organs] for at in range(len(train))]

        def loss(rows: np.ndarray, epoch: int) -> Tensor:
            of_rows = [train.images[at] for at in rows]
            views = training_views(of_rows, rows, epoch, size, settings.augment, seed)
            truth = training_masks([masks[at] for at in rows], rows, epoch, size, settings.augment, seed)
            with autocast(device):
                logits = model(torch.from_numpy(views).to(device))
            return dice_and_bce(logits.float(), torch.from_numpy(truth).to(device))

        def quality() -> float:
            scores = [row["score"] for row in _rows(model, val, organs, device, distances=False)]
            return float(np.mean(scores)) if scores else float("nan")  # type: ignore[arg-type]

        done = fit(model, _groups(model, settings), loss, quality, len(train), settings.fit, seed)
    return _rows(model, test, organs, device, distances=True), f"epoch {done.best_epoch} of {done.epochs}"


def _groups(model: Segmenter, settings: SegmentSettings) -> list[dict[str, object]]:
    lr = settings.lr * (10.0 if model.frozen else 1.0)
    groups = [] if model.frozen else model.backbone.groups(lr, settings.weight_decay, settings.layer_decay)
    return [*groups, {"params": list(model.decoder.parameters()), "lr": lr, "weight_decay": settings.weight_decay}]


def dice_and_bce(logits_BOSS: Tensor, truth_BOSS: Tensor) -> Tensor:
    """1 - soft Dice over the batch, plus binary cross-entropy, means over organs; unknown masks (NaN) are left out."""
    at = truth_BOSS.isfinite()
    if not at.any():
        return logits_BOSS.sum() * 0.0
    truth = truth_BOSS.nan_to_num()
    bce = F.binary_cross_entropy_with_logits(logits_BOSS[at], truth[at])
    found = logits_BOSS.sigmoid() * at
    shared, total = (found * truth).sum(dim=(0, 2, 3)), (found + truth).sum(dim=(0, 2, 3))
    known = at.any(dim=3).any(dim=2).any(dim=0)
    return bce + (1.0 - (2.0 * shared + 1.0) / (total + 1.0))[known].mean()


@torch.inference_mode()
def _rows(
    model: Segmenter, part: Examples, organs: list[str], device: torch.device, *, distances: bool
) -> list[dict[str, object]]:
    model.eval()
    size, rows = model.backbone.image_size, []
    for start in range(0, len(part), CHUNK):
        views = np.stack([whole_view(data, size) for data in part.images[start : start + CHUNK]])
        found = (model(torch.from_numpy(views).to(device)).float() > 0).cpu().numpy()
        for number, of_organs in enumerate(found):
            at = start + number
            for organ, found_SS in zip(organs, of_organs, strict=True):
                data = part.masks[organ][at]
                if data is None:
                    continue
                truth_SS = whole_mask(data, size)
                rows.append(
                    {
                        "label": organ,
                        "image_id": part.image_ids[at],
                        "patient_id": part.patients[at],
                        "truth": float(truth_SS.any()),
                        "score": dice(found_SS, truth_SS),
                        "distance": 100.0 * hd95(found_SS, truth_SS) / size if distances else float("nan"),
                    }
                )
    return rows
