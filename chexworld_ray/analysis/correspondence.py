"""Anatomical correspondence (Fig. 6): a place of one image is looked for in others by features of the target encoder.

The features of a 2x2 window of tokens around it are compared (cosine, about the mean token) with every window of the
other image. The paper shows heat maps; here the best window is also held against landmarks and organ masks.

Legend: N images, S side of a view, G side of the token grid, W = (G - 1)² windows, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chexworld_ray.analysis.outcome import HeatMap, Outcome, interval
from chexworld_ray.analysis.world import World, features, grey
from chexworld_ray.hashing import Purpose, generator

OTHERS = 4  # images in which each is looked for
POINTS = 4  # of each organ
NEAR = 0.1  # sides of the view
LARGE = 0.2  # of an organ's area: a part that counts as a side of its own, as each lung does
SAME_PLACE = "same place"


@dataclass(frozen=True)
class Labelled:
    """A view with what is known of it; places are (row, column) in sides of the view."""

    view_SS: np.ndarray
    patient: str
    landmarks: dict[str, tuple[float, float]] = field(default_factory=dict)
    organs: dict[str, np.ndarray] = field(default_factory=dict)
    """Boolean SxS."""


@dataclass(frozen=True)
class Query:
    """A place of image `source` that is looked for in image `other`: a landmark, or a point of a part of an organ."""

    source: int
    other: int
    place: tuple[float, float]
    landmark: tuple[float, float] | None = None
    """Where it is in the other image."""
    part_SS: np.ndarray | None = None
    """Where that part of the organ is in the other image."""


def correspondence(worlds: Sequence[World], images: Sequence[Labelled], seed: int) -> Outcome:
    """Distance to the true landmark, and how often a point lands in its own organ (each lung is one of its own)."""
    queries = _queries(images, seed)
    patients = [images[query.source].patient for query in queries]
    windows = {world.name: _windows(world, images) for world in worlds}
    found = {name: _look(windows_NWD, queries) for name, windows_NWD in windows.items()}
    found[SAME_PLACE] = [query.place for query in queries]
    rows = []
    for name, places in found.items():
        off = np.array([_distance(query, place) for query, place in zip(queries, places, strict=True)])
        hit = np.array([_hit(query, place) for query, place in zip(queries, places, strict=True)])
        near = np.where(np.isfinite(off), off <= NEAR, np.nan)
        rows.append([name, *(_told(values, patients) for values in (off, near, hit))])
    return Outcome(
        "correspondence",
        f"Anatomical correspondence: {len(queries)} places of {len(images)} images, each looked for in others",
        ["model", "landmark off by (sides)", f"landmarks within {NEAR:g}", "points that land in their organ"],
        rows,
        "The claim holds where the trained model is nearer than both its random start and the same place of the other "
        "image.",
        maps=_maps(windows[worlds[0].name], images, queries),
    )


def _told(values_Q: np.ndarray, patients: Sequence[str]) -> str:
    return interval(values_Q, patients) if np.isfinite(values_Q).any() else "none known"


def _queries(images: Sequence[Labelled], seed: int) -> list[Query]:
    rng = generator(seed, Purpose.CORRESPONDENCE)
    found = []
    for source, one in enumerate(images):
        others = [at for at in range(len(images)) if images[at].patient != one.patient]
        for other in rng.permutation(others)[:OTHERS].tolist() if others else []:
            two = images[other]
            for name in sorted(one.landmarks.keys() & two.landmarks.keys()):
                found.append(Query(source, other, one.landmarks[name], two.landmarks[name]))
            for name in sorted(one.organs.keys() & two.organs.keys()):
                found += _points(source, other, sides(one.organs[name]), sides(two.organs[name]), rng)
    return found


def _points(
    source: int, other: int, here_SS: np.ndarray, there_SS: np.ndarray, rng: np.random.Generator
) -> list[Query]:
    """Points of an organ, where the other image has as many parts of it."""
    if here_SS.max() != there_SS.max() or not here_SS.any():
        return []
    places = np.argwhere(here_SS > 0)
    chosen = places[rng.integers(0, len(places), POINTS)]
    size = here_SS.shape[0]
    return [
        Query(source, other, ((row + 0.5) / size, (col + 0.5) / size), part_SS=there_SS == here_SS[row, col])
        for row, col in chosen.tolist()
    ]


def sides(mask_SS: np.ndarray) -> np.ndarray:
    """0 outside of an organ, 1 in it; where it has two large parts, 1 in the left and 2 in the right one."""
    count, _labels, statistics, centres = cv2.connectedComponentsWithStats(mask_SS.astype(np.uint8))
    large = [at for at in range(1, count) if statistics[at, cv2.CC_STAT_AREA] >= LARGE * max(1, mask_SS.sum())]
    if len(large) != 2:
        return mask_SS.astype(np.uint8)
    middle = centres[large, 0].mean()
    right = np.arange(mask_SS.shape[1])[None, :] > middle
    return np.where(mask_SS, np.where(right, 2, 1), 0).astype(np.uint8)


def _look(windows_NWD: Tensor, queries: Sequence[Query]) -> list[tuple[float, float]]:
    return [_best(_heat(windows_NWD, query)) for query in queries]


def _heat(windows_NWD: Tensor, query: Query) -> Tensor:
    """Cosine of what is looked for with every window of the other image, side x side."""
    side = round(windows_NWD.shape[1] ** 0.5)
    wanted_D = windows_NWD[query.source, window_of(query.place, side)]
    return (windows_NWD[query.other] @ wanted_D).view(side, side)


def _best(heat: Tensor) -> tuple[float, float]:
    """Centre of the window that fits best."""
    side = len(heat)
    row, col = divmod(int(heat.argmax()), side)
    return (row + 1.0) / (side + 1), (col + 1.0) / (side + 1)


def _windows(world: World, images: Sequence[Labelled]) -> Tensor:
    """Features of every 2x2 window of every image, of length 1, NxWxD."""
    tokens = torch.cat([features(world, grey(world, one.view_SS)) for one in images])
    tokens_NDGG = (tokens - tokens.mean(dim=(0, 1))).transpose(1, 2).unflatten(2, (world.grid, world.grid))
    return F.normalize(F.avg_pool2d(tokens_NDGG, 2, stride=1).flatten(2).transpose(1, 2), dim=2)


def window_of(place: tuple[float, float], side: int) -> int:
    """The window (of side x side) whose centre is nearest to a place."""
    row, col = (min(max(round(part * (side + 1)) - 1, 0), side - 1) for part in place)
    return row * side + col


def _distance(query: Query, place: tuple[float, float]) -> float:
    if query.landmark is None:
        return float("nan")
    return float(np.hypot(place[0] - query.landmark[0], place[1] - query.landmark[1]))


def _hit(query: Query, place: tuple[float, float]) -> float:
    if query.part_SS is None:
        return float("nan")
    size = query.part_SS.shape[0]
    row, col = (min(int(part * size), size - 1) for part in place)
    return float(query.part_SS[row, col])


def _maps(windows_NWD: Tensor, images: Sequence[Labelled], queries: Sequence[Query]) -> list[HeatMap]:
    """The first place and where it is seen in other images."""
    if not queries:
        return []
    first = queries[0]
    shown = [HeatMap("looked for", images[first.source].view_SS, None, first.place)]
    for other in dict.fromkeys(query.other for query in queries if query.source == first.source):
        heat = _heat(windows_NWD, replace(first, other=other))
        shown.append(HeatMap("found", images[other].view_SS, heat.cpu().numpy(), _best(heat)))
    return shown
