"""What masks look like over many images, against the published rule, and what a batch of them costs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from chexworld_ray.benchmarks.measure import best_seconds, machine
from chexworld_ray.config import MaskSettings, ViewSettings
from chexworld_ray.views.crops import crop_boxes, overlap
from chexworld_ray.views.masks import sample_masks
from chexworld_ray.views.statistics import mask_statistics, published_target_probability

CROP_IMAGES = 2_000
REPEATS = 30


def benchmark_masks(
    settings: MaskSettings, views: ViewSettings, grid: int, images: int, batch: int, seed: int, device: torch.device
) -> dict[str, Any]:
    """One JSON object: row probabilities top to bottom, overlap of crops, tokens, time of a batch of `batch` images."""
    statistics = mask_statistics(seed, images, grid, settings)
    published = published_target_probability(seed, images, grid, settings, batch)
    positions_B: Tensor = torch.arange(batch, device=device)
    seconds = best_seconds(lambda: sample_masks(seed, positions_B, 2, grid, settings), REPEATS, device)
    covered = np.array([overlap(crop_boxes(512, 512, views, seed, position)) for position in range(CROP_IMAGES)])
    rows = statistics.target_GG.mean(axis=1)
    return {
        "benchmark": "masks",
        "machine": machine(device),
        "images": images,
        "grid": grid,
        "target_row_probability": _rounded(rows),
        "context_row_probability": _rounded(statistics.context_GG.mean(axis=1)),
        "target_asymmetry": round(float(np.abs(rows - rows[::-1]).max()), 4),
        "weakest_row_over_centre": round(float(rows.min() / rows[(grid - 1) // 2 : grid // 2 + 1].mean()), 4),
        "published_target_row_probability": _rounded(published.mean(axis=1)),
        "crop_overlap": {
            "mean": round(float(covered.mean()), 4),
            "p5": round(float(np.percentile(covered, 5)), 4),
            "p95": round(float(np.percentile(covered, 95)), 4),
        },
        "tokens": {name: round(value, 2) for name, value in statistics.tokens.items()},
        "batch": batch,
        "ms_per_batch": round(1e3 * seconds, 4),
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
