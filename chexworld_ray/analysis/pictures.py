"""What the predictor expects, as pixels (Fig. 4, 5): of masked patches, and of a crop that was not seen.

A small decoder is trained on frozen features of the target encoder, in minutes; it then draws predicted features.
Beside them stand the truth and what the decoder makes of the true features: what it can't draw is not the predictor's
fault.

Legend: N images, S side of a view, G side of the token grid, P = G² patches, D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexworld_ray.analysis.layout import make_pair
from chexworld_ray.analysis.outcome import HeatMap, Outcome, interval
from chexworld_ray.analysis.world import FIRST, World, context, features, grey, predictions, same_place, told
from chexworld_ray.hashing import Purpose, generator
from chexworld_ray.views.masks import sample_masks

BATCH, LR = 32, 2e-3
HIDDEN = 128
SHOWN = 2  # images of each kind in the picture


class PixelDecoder(nn.Module):
    """BxPxD features of a view → BxSxS grey on [0, 1]: two 3x3 convolutions on the token grid, then pixels of each."""

    def __init__(self, width: int, grid: int, patch: int) -> None:
        super().__init__()
        self.grid = grid
        self.layers = nn.Sequential(
            nn.Conv2d(width, HIDDEN, 1),
            nn.GELU(),
            nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(HIDDEN, patch * patch, 1),
            nn.PixelShuffle(patch),
        )

    def forward(self, features_BPD: Tensor) -> Tensor:
        """Grey views."""
        return self.layers(features_BPD.transpose(1, 2).unflatten(2, (self.grid, self.grid)))[:, 0]


def fit_decoder(world: World, views_NSS: np.ndarray, steps: int) -> PixelDecoder:
    """Train a decoder on uint8 views: mean square, AdamW, cosine."""
    model, device = world.science.model, world.device
    wanted_NSS = torch.from_numpy(views_NSS).float().div(255.0)
    known_NPD = torch.cat([features(world, part.to(device)).cpu() for part in wanted_NSS.split(BATCH)]).clone()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world.science.seed)
        decoder = PixelDecoder(model.width, model.grid, model.patch_size).to(device)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = generator(world.science.seed, Purpose.DECODER)
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(wanted_NSS), BATCH))
        loss = F.mse_loss(decoder(known_NPD[rows].to(device)), wanted_NSS[rows].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return decoder.requires_grad_(False).eval()


class Drawn(NamedTuple):
    """Grey SxS on [0, 1]; `asked_SS` is True where pixels were predicted."""

    seen_SS: Tensor
    truth_SS: Tensor
    predicted_SS: Tensor
    known_SS: Tensor
    """Decoded from the true features."""
    asked_SS: Tensor


def pictures(
    worlds: Sequence[World],
    train_NSS: np.ndarray,
    images: Sequence[np.ndarray],
    views_NSS: np.ndarray,
    patients: Sequence[str],
    steps: int,
) -> Outcome:
    """Mean square errors (grey on [0, 1]) of what is drawn, over the pixels that were predicted; pictures of the first.

    `images` and `views_NSS`: the same images, whole in their own shape and squeezed to a view.
    """
    mean_SS = torch.from_numpy(train_NSS.mean(axis=0) / 255.0).float()
    rows, maps = [], []
    for world in worlds:
        decoder = fit_decoder(world, train_NSS, steps)
        masked = [_masked(world, decoder, view, number) for number, view in enumerate(views_NSS)]
        unseen = [_unseen(world, decoder, pixels, number) for number, pixels in enumerate(images)]
        for name, drawn in (("masked patches", masked), ("an unseen crop", unseen)):
            errors = np.array([_errors(one, mean_SS) for one in drawn])
            rows.append([world.name, name, *(interval(errors[:, at], patients) for at in range(3))])
            maps += [panel for one in drawn[:SHOWN] for panel in _panels(one, f"{world.name}: ")]
    return Outcome(
        "pictures",
        "What the predictor expects, decoded to pixels",
        ["model", "of", "from predicted features", "from true features", "mean image"],
        rows,
        "Mean square error over the pixels that were predicted. Predicted features are worth as much as true ones "
        "where the first two agree; where the first is not below the mean image, nothing was predicted.",
        maps=maps,
    )


def _masked(world: World, decoder: PixelDecoder, view_SS: np.ndarray, number: int) -> Drawn:
    """Target patches of one of training's masks, predicted from its context; all others are the true ones."""
    grid, patch = world.grid, world.science.model.patch_size
    at = torch.tensor([FIRST + number], device=world.device)
    masks = sample_masks(world.science.seed, at, 1, grid, world.science.masks)
    index, valid = masks.context_index_MC[:1], masks.context_valid_MC[:1]
    truth = grey(world, view_SS)
    known = features(world, truth)
    eyes = context(world, truth, index, valid)
    every = predictions(world, eyes, told(world, None, 1), same_place(world, 1), index, valid)
    asked_P = torch.zeros(grid * grid, dtype=torch.bool, device=world.device)
    asked_P[masks.target_index_MT[0][masks.target_valid_MT[0]]] = True
    seen_P = torch.zeros_like(asked_P)
    seen_P[index[0][valid[0]]] = True
    mixed = torch.where(asked_P[None, :, None], every, known)
    shown = truth[0] * _pixels(seen_P, grid, patch)
    return Drawn(shown, truth[0], decoder(mixed)[0], decoder(known)[0], _pixels(asked_P, grid, patch))


def _unseen(world: World, decoder: PixelDecoder, pixels_HW: np.ndarray, number: int) -> Drawn:
    """The whole of another crop, at its true offset."""
    pair = make_pair(pixels_HW, world, number, 1)
    relative = same_place(world, 1)
    relative[:, :2] = pair.offsets_C2[:1]
    predicted = predictions(world, context(world, pair.context_1SS), told(world, None, 1), relative)
    truth = pair.target_1SS
    everywhere = torch.ones_like(truth[0], dtype=torch.bool)
    known = decoder(features(world, truth))[0]
    return Drawn(pair.context_1SS[0], truth[0], decoder(predicted)[0], known, everywhere)


def _pixels(patches_P: Tensor, grid: int, patch: int) -> Tensor:
    """Patches as pixels, SxS."""
    return patches_P.view(grid, grid).repeat_interleave(patch, 0).repeat_interleave(patch, 1)


def _errors(one: Drawn, mean_SS: Tensor) -> list[float]:
    at = one.asked_SS.cpu()
    truth = one.truth_SS.cpu()
    drawn = (one.predicted_SS.cpu(), one.known_SS.cpu(), mean_SS)
    return [float((picture - truth)[at].square().mean()) for picture in drawn]


def _panels(one: Drawn, before: str) -> list[HeatMap]:
    named = {
        f"{before}seen": one.seen_SS,
        "expected": one.predicted_SS,
        "from true features": one.known_SS,
        "truth": one.truth_SS,
    }
    return [
        HeatMap(name, (picture.clamp(0, 1) * 255).byte().cpu().numpy(), None, None) for name, picture in named.items()
    ]
