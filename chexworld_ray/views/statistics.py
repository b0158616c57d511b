"""How often each patch is target or context, over many images; and under the published rule."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from chexworld_ray.config import MaskSettings
from chexworld_ray.views.masks import Masks, sample_masks

CHUNK = 2_000


@dataclass(frozen=True)
class MaskStatistics:
    """Probability of each patch (GxG, rows top to bottom) to be a target and to be context."""

    target_GG: np.ndarray
    context_GG: np.ndarray
    tokens: dict[str, float]
    """Of a view, mean: context and target tokens used, and slots wasted on padding."""


def mask_statistics(seed: int, images: int, grid: int, settings: MaskSettings) -> MaskStatistics:
    """Over `images` images with two views each."""
    target, context = torch.zeros(grid * grid), torch.zeros(grid * grid)
    for start in range(0, images, CHUNK):
        positions_B = torch.arange(start, min(start + CHUNK, images))
        masks = sample_masks(seed, positions_B, 2, grid, settings)
        target.index_add_(0, masks.target_index_MT.flatten(), masks.target_valid_MT.flatten().float())
        context.index_add_(0, masks.context_index_MC.flatten(), masks.context_valid_MC.flatten().float())
    views = 2.0 * images
    used = {"context_used": float(context.sum()) / views, "target_used": float(target.sum()) / views}
    budget_context, budget_target = settings.budgets(grid)
    wasted = {
        "context_wasted": budget_context - used["context_used"],
        "target_wasted": budget_target - used["target_used"],
    }
    shape = (grid, grid)
    return MaskStatistics((target / views).view(shape).numpy(), (context / views).view(shape).numpy(), used | wasted)


def published_target_probability(seed: int, images: int, grid: int, settings: MaskSettings, batch: int) -> np.ndarray:
    """Target probability GxG under the published rule, from its description (WORLD_MODEL), on our blocks.

    Block sizes are per batch there; that does not move the probabilities' shape. What does: sorted indices are cut to
    the smallest number of targets in the batch, so the patches at the bottom are dropped.
    """
    everything = replace(settings, context_tokens=1, target_tokens=grid * grid, overhang=False)
    hits = torch.zeros(grid * grid)
    for start in range(0, images, batch):
        masks: Masks = sample_masks(seed, torch.arange(start, start + batch), 1, grid, everything)
        chosen = torch.zeros(batch, grid * grid, dtype=torch.bool)
        chosen.scatter_(1, masks.target_index_MT, masks.target_valid_MT)
        kept = chosen & (chosen.cumsum(dim=1) <= chosen.sum(dim=1).min())
        hits += kept.float().sum(dim=0)
    return (hits / (-(-images // batch) * batch)).view(grid, grid).numpy()
