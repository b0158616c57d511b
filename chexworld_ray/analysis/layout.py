"""Global layout: what is predicted of a place that was not seen, by its distance; is the true offset told from others?

Two crops of half an image's height and width each: one is seen, of the other the features are predicted.

Legend: N images, S side of a view, C offsets, P patches, D width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from chexworld_ray.analysis.outcome import Outcome, interval
from chexworld_ray.analysis.world import World, context, features, grey, predictions, rank_of, same_place, told
from chexworld_ray.hashing import Purpose, generator
from chexworld_ray.models.positions import grid_positions
from chexworld_ray.objectives.queries import query_positions
from chexworld_ray.views.crops import cut

PART = 0.5  # of the image's height and width
EDGES = (0.0, 0.125, 0.25, 0.5, 1.0)  # sides of the view, between bins of distance from what is seen


def layout(worlds: Sequence[World], images: Sequence[np.ndarray], patients: Sequence[str], candidates: int) -> Outcome:
    """Explained share of the features by distance, and how often the true offset fits best of `candidates`."""
    bins = ["inside", *(f"{low:g}-{high:g}" for low, high in pairwise(EDGES))]
    rows, curves = [], {}
    for world in worlds:
        explained_NK, first_N, off_N = _look(world, images, candidates)
        shares = [interval(explained_NK[:, at], patients) for at in range(len(bins))]
        rows.append([world.name, *shares, interval(first_N, patients), interval(off_N, patients)])
        with np.errstate(all="ignore"):
            curves[world.name] = np.nan_to_num(np.nanmean(explained_NK, axis=0)).tolist()
    return Outcome(
        "layout",
        f"Global layout: features of an unseen crop by distance (sides of the view), and its offset among {candidates}",
        ["model", *bins, f"true offset first (chance {1 / candidates:.3f})", "best offset off by"],
        rows,
        "Shares of the features' variance that the prediction explains: 1 is exact, 0 no better than the mean patch. "
        "The claim holds where shares stay above 0 outside of what is seen, and the true offset comes first more often "
        "than by chance.",
        curves,
    )


def _look(world: World, images: Sequence[np.ndarray], candidates: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pairs = [make_pair(pixels, world, number, candidates) for number, pixels in enumerate(images)]
    wanted_NPD = torch.cat([features(world, pair.target_1SS) for pair in pairs])
    mean_D = wanted_NPD.mean(dim=(0, 1))
    explained, first, off = [], [], []
    for pair, wanted_PD in zip(pairs, wanted_NPD, strict=True):
        seen = context(world, pair.context_1SS).expand(candidates, -1, -1)
        relative_C6 = same_place(world, candidates)
        relative_C6[:, :2] = pair.offsets_C2
        predicted_CPD = predictions(world, seen, told(world, None, candidates), relative_C6)
        distances_P = outside(
            query_positions(grid_positions(world.grid, world.device), relative_C6[0], world.grid), world.grid
        )
        errors_P = (predicted_CPD[0] - wanted_PD).square().mean(dim=1)
        explained.append(_by_distance(errors_P, (mean_D - wanted_PD).square().mean(dim=1), distances_P))
        errors_C = (predicted_CPD - wanted_PD).norm(dim=2).mean(dim=1)
        first.append(float(rank_of(0, errors_C) == 0))
        off.append(float((pair.offsets_C2[int(errors_C.argmin())] - pair.offsets_C2[0]).norm()))
    return np.array(explained), np.array(first), np.array(off)


class Pair(NamedTuple):
    """Context and target of one image (1xSxS on [0, 1]), and offsets of the target in sides of the view, true first."""

    context_1SS: Tensor
    target_1SS: Tensor
    offsets_C2: Tensor


def make_pair(pixels_HW: np.ndarray, world: World, number: int, candidates: int) -> Pair:
    rng = generator(world.science.seed, Purpose.LAYOUT, number)
    size = np.maximum(1, (np.array(pixels_HW.shape) * PART).astype(int))
    corners = rng.integers(0, np.array(pixels_HW.shape) - size + 1, (candidates + 1, 2))
    crops = [cut(pixels_HW, np.concatenate([corner, size]), world.science.model.image_size) for corner in corners[:2]]
    seen, target = (grey(world, crop) for crop in crops)
    offsets = torch.from_numpy((corners[1:] - corners[0]) / size).float().to(world.device)
    return Pair(seen, target, offsets)


def outside(places_P2: Tensor, grid: int) -> Tensor:
    """Distance of places (row, column) in a grid from its nearest patch, in sides of the grid; 0 inside."""
    beyond = torch.maximum(-places_P2, places_P2 - (grid - 1)).clamp_min(0.0)
    return beyond.norm(dim=-1) / grid


def _by_distance(errors_P: Tensor, of_mean_P: Tensor, distances_P: Tensor) -> list[float]:
    """1 - error over error of the mean patch, inside and for each bin of EDGES; NaN where no patch lies there."""
    limits = (-1.0, *EDGES)
    found = []
    for low, high in pairwise(limits):
        at = (distances_P > low) & (distances_P <= high)
        found.append(float(1.0 - errors_P[at].sum() / of_mean_P[at].sum()) if at.any() else float("nan"))
    return found
