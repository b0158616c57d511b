"""Fitting a network on labelled examples: AdamW, warm-up and cosine, stopped when validation stops getting better."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexworld_ray.evaluation.examples import Output
from chexworld_ray.evaluation.settings import FitSettings
from chexworld_ray.hashing import Purpose, generator
from chexworld_ray.models.device import has_bf16

VERSION = 2  # raise it where the same inputs give other scores than before


@dataclass(frozen=True)
class Fitted:
    """What came of it. `quality` is NaN where there was no validation, and the last epoch was kept."""

    quality: float
    best_epoch: int
    epochs: int


def fit(
    model: nn.Module,
    groups: list[dict[str, Any]],
    loss: Callable[[np.ndarray, int], Tensor],
    quality: Callable[[], float],
    examples: int,
    settings: FitSettings,
    seed: int,
    report: Callable[[int, float], None] | None = None,
    *,
    start_counts: bool = False,
) -> Fitted:
    """Train `model` and leave the weights of the best epoch in it; `start_counts`: those it comes with are epoch 0.

    `loss(rows, epoch)` is the loss of some rows; `quality()` says how good the model is now, NaN where it can't tell.
    `report` hears of it after each epoch, and of epoch 0 where it counts.
    """
    size = max(1, min(settings.batch, examples // 4))
    steps = max(1, examples // size)
    total, warm = settings.epochs * steps, settings.warmup_epochs * steps
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, warm, total))
    best, best_epoch, kept = -math.inf, 0, None
    epoch = 0
    if start_counts:
        value = quality()
        if report is not None:
            report(epoch, value)
        if math.isfinite(value):
            best, kept = value, _weights(model)
    for epoch in range(1, settings.epochs + 1):
        model.train()
        for rows in _batches(examples, size, steps, seed, epoch):
            optimizer.zero_grad(set_to_none=True)
            loss(rows, epoch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        value = quality()
        if report is not None:
            report(epoch, value)
        if value > best:
            best, best_epoch = value, epoch
            kept = _weights(model)
        elif math.isfinite(best) and epoch - best_epoch >= settings.patience:
            break
    if kept is not None:
        model.load_state_dict(kept)
    return Fitted(best if kept is not None else math.nan, best_epoch if kept is not None else epoch, epoch)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _factor(step: int, warm: float, total: int) -> float:
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, total - warm))))


def _batches(examples: int, size: int, steps: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    order = generator(seed, Purpose.FIT_ORDER, epoch).permutation(examples)
    yield from (order[step * size : (step + 1) * size] for step in range(steps))


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on GPUs; on CPUs small models are no faster with it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and has_bf16(device))


def label_loss(logits_BC: Tensor, truth_BC: Tensor, outputs: list[list[Output]]) -> Tensor:
    """Mean over labels: binary cross-entropy for a yes or no, cross-entropy over classes; unknown (NaN) is left out."""
    losses, start = [], 0
    for label in outputs:
        logits, truth = (part[:, start : start + len(label)] for part in (logits_BC, truth_BC))
        start += len(label)
        at = truth.isfinite().all(dim=1)
        if not at.any():
            continue
        if len(label) == 1:
            losses.append(F.binary_cross_entropy_with_logits(logits[at], truth[at]))
        else:
            losses.append(F.cross_entropy(logits[at], truth[at]))
    return torch.stack(losses).mean() if losses else logits_BC.sum() * 0.0


def probabilities(logits_BC: Tensor, outputs: list[list[Output]]) -> np.ndarray:
    """Sigmoid of a yes or no, softmax over classes."""
    parts, start = [], 0
    for label in outputs:
        logits = logits_BC[:, start : start + len(label)].float()
        start += len(label)
        parts.append(logits.sigmoid() if len(label) == 1 else logits.softmax(dim=1))
    return torch.cat(parts, dim=1).cpu().numpy().astype(np.float64)
