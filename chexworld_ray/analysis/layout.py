"""Global layout: what is predicted of a place that was not seen, by its distance; is the true offset told from others?

Two crops of half an image's height and width each: one is seen, of the other the features are predicted.

A token says where it stands in its view, whatever the image, and a prediction that says no more knows nothing of the
image. So the zero of the variance explained is the mean over images of each place of the view; beside it stands the
zero of all places' mean, with what the place alone explains of that.

Legend: N images, S side of a view, C offsets, P patches, D width, K inside and bins of distance.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from chexworld_ray.analysis.outcome import Outcome, explained, interval
from chexworld_ray.analysis.world import World, context, features, grey, predictions, rank_of, same_place, told
from chexworld_ray.hashing import Purpose, generator
from chexworld_ray.models.positions import grid_positions
from chexworld_ray.objectives.queries import query_positions
from chexworld_ray.views.crops import cut

PART = 0.5  # of the image's height and width
EDGES = (0.0, 0.125, 0.25, 0.5, 1.0)  # sides of the view, between bins of distance from what is seen
PLACE, PATCH = "mean of the place", "mean patch"


def layout(worlds: Sequence[World], images: Sequence[np.ndarray], patients: Sequence[str], candidates: int) -> Outcome:
    """Explained share of the features by distance, and how often the true offset fits best of `candidates`."""
    bins = ["inside", *(f"{low:g}-{high:g}" for low, high in pairwise(EDGES))]
    rows, curves = [], {}
    for world in worlds:
        found, first_N, off_N = _look(world, images, candidates)
        offsets = [interval(first_N, patients), interval(off_N, patients)]
        for name, zero, errors_NK, of_zero_NK, told_of in (
            ("predictor", PLACE, found.predicted_NK, found.of_place_NK, offsets),
            ("predictor", PATCH, found.predicted_NK, found.of_patch_NK, ["", ""]),
            ("place alone", PATCH, found.of_place_NK, found.of_patch_NK, ["", ""]),
        ):
            shares = [explained(errors_NK[:, at], of_zero_NK[:, at], patients) for at in range(len(bins))]
            rows.append([world.name, name, zero, *shares, *told_of])
            if name == "predictor":
                curves[f"{world.name}, zero is the {zero}"] = _shares(errors_NK, of_zero_NK)
    return Outcome(
        "layout",
        f"Global layout: features of an unseen crop by distance (sides of the view), and its offset among {candidates}",
        [
            *("model", "predicted by", "zero is the"),
            *bins,
            f"true offset first (chance {1 / candidates:.3f})",
            "best offset off by",
        ],
        rows,
        f"Shares of the features' variance that the prediction explains: 1 is exact, 0 no better than the {PLACE} of "
        f"its view over these images, or than the {PATCH} of all places, of which the place alone explains as much as "
        f"the third line says. The claim holds where shares beyond the {PLACE} stay above 0 outside of what is seen, "
        "and the true offset comes first more often than by chance.",
        curves,
    )


class Errors(NamedTuple):
    """Sums of squares over the patches of each image in each bin, NxK, of what is said in place of the features."""

    predicted_NK: np.ndarray
    of_place_NK: np.ndarray
    of_patch_NK: np.ndarray


def _shares(errors_NK: np.ndarray, of_zero_NK: np.ndarray) -> list[float]:
    """Explained shares of all images; 0 where there is nothing to explain."""
    total_K = of_zero_NK.sum(axis=0)
    return (1.0 - errors_NK.sum(axis=0) / np.where(total_K > 0, total_K, np.inf) - (total_K <= 0)).tolist()


def _look(world: World, images: Sequence[np.ndarray], candidates: int) -> tuple[Errors, np.ndarray, np.ndarray]:
    pairs = [make_pair(pixels, world, number, candidates) for number, pixels in enumerate(images)]
    wanted_NPD = torch.cat([features(world, pair.target_1SS) for pair in pairs])
    place_PD = wanted_NPD.mean(dim=0)
    patch_D = place_PD.mean(dim=0)
    errors, first, off = [], [], []
    for pair, wanted_PD in zip(pairs, wanted_NPD, strict=True):
        seen = context(world, pair.context_1SS).expand(candidates, -1, -1)
        relative_C6 = same_place(world, candidates)
        relative_C6[:, :2] = pair.offsets_C2
        predicted_CPD = predictions(world, seen, told(world, None, candidates), relative_C6)
        distances_P = outside(
            query_positions(grid_positions(world.grid, world.device), relative_C6[0], world.grid), world.grid
        )
        said = (predicted_CPD[0], place_PD, patch_D)
        errors.append([_by_distance((one - wanted_PD).square().mean(dim=1), distances_P) for one in said])
        errors_C = (predicted_CPD - wanted_PD).norm(dim=2).mean(dim=1)
        first.append(float(rank_of(0, errors_C) == 0))
        off.append(float((pair.offsets_C2[int(errors_C.argmin())] - pair.offsets_C2[0]).norm()))
    return Errors(*np.array(errors).transpose(1, 0, 2)), np.array(first), np.array(off)


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


def _by_distance(errors_P: Tensor, distances_P: Tensor) -> list[float]:
    """Sum of the errors inside of what is seen, and in each bin of EDGES."""
    limits = (-1.0, *EDGES)
    return [float(errors_P[(distances_P > low) & (distances_P <= high)].sum()) for low, high in pairwise(limits)]
