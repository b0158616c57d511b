"""Full fine-tuning of the target encoder: mean over tokens, linear head, layer decay, drop path.

Legend: B images, S side of a view, C outputs.
"""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from chexworld_ray.evaluation.augment import centre_view, training_views
from chexworld_ray.evaluation.examples import Output, Problem
from chexworld_ray.evaluation.fit import autocast, fit, label_loss, probabilities
from chexworld_ray.evaluation.head import probe_head
from chexworld_ray.evaluation.settings import FinetuneSettings
from chexworld_ray.metrics.classification import mean_auroc
from chexworld_ray.models.backbone import Backbone

VERSION = 1  # raise it where the same inputs give other scores than before
CHUNK = 64


class Classifier(nn.Module):
    """uint8 BxSxS → BxC."""

    def __init__(self, backbone: Backbone, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.width, outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Self:
        """Batch norms (of foreign networks) keep their statistics: a batch of a small set has few images."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        return self

    @torch.no_grad()
    def start_at(self, weight_CD: np.ndarray, bias_C: np.ndarray) -> None:
        """Set the head."""
        self.head.weight.copy_(torch.from_numpy(weight_CD))
        self.head.bias.copy_(torch.from_numpy(bias_C))

    def forward(self, views_BSS: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.backbone(views_BSS).mean(dim=1))


def finetune_probabilities(
    backbone: Backbone,
    problem: Problem,
    settings: FinetuneSettings,
    seed: int,
    device: torch.device,
    report: Callable[[int, float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Probabilities of validation (VxC) and test (MxC), and which epoch was kept; `report` hears of each epoch."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Classifier(backbone.requires_grad_(True), problem.truth_NC.shape[1]).to(device)
        probed = settings.head == "probe"
        if probed:
            model.start_at(*probe_head(model.backbone, problem, seed, device))
        truth, outputs = torch.from_numpy(problem.truth_NC.astype(np.float32)), problem.outputs
        val, test = (_views(part.images, backbone.image_size) for part in (problem.val, problem.test))

        def loss(rows: np.ndarray, epoch: int) -> Tensor:
            images = [problem.train.images[at] for at in rows]
            seen = training_views(images, rows, epoch, backbone.image_size, settings.augment, seed)
            with autocast(device):
                logits = model(torch.from_numpy(seen).to(device))
            return label_loss(logits.float(), truth[rows].to(device), outputs)

        def quality() -> float:
            return mean_auroc(problem.val_truth_VC, _predict(model, val, outputs, device))

        groups = backbone.groups(settings.lr, settings.weight_decay, settings.layer_decay)
        groups += [{"params": model.head.parameters(), "lr": settings.lr, "weight_decay": settings.weight_decay}]
        examples = len(problem.train)
        done = fit(model, groups, loss, quality, examples, settings.fit, seed, report, start_counts=probed)
    chosen = f"lr {settings.lr:g}, epoch {done.best_epoch} of {done.epochs}"
    return _predict(model, val, outputs, device), _predict(model, test, outputs, device), chosen


def _views(images: Sequence[bytes], size: int) -> np.ndarray:
    return np.stack([centre_view(data, size) for data in images]) if images else np.zeros((0, size, size), np.uint8)


@torch.inference_mode()
def _predict(model: Classifier, views_NSS: np.ndarray, outputs: list[list[Output]], device: torch.device) -> np.ndarray:
    model.eval()
    if not len(views_NSS):
        return np.zeros((0, sum(map(len, outputs))))
    parts = []
    for part in torch.from_numpy(views_NSS).split(CHUNK):
        with autocast(device):
            parts.append(model(part.to(device)).float())
    return probabilities(torch.cat(parts), outputs)
