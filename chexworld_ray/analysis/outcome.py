"""What an analysis found: a table, and the curves of its picture."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from chexworld_ray import storage
from chexworld_ray.config import from_dict
from chexworld_ray.metrics.bootstrap import Interval, bootstrap

FOLDER = "analyses"  # of a run
_LARGEST_PICTURE = 64 << 20  # bytes


@dataclass(frozen=True)
class HeatMap:
    """An image (uint8 SxS), what is laid over it, and a place in it (row, column in sides)."""

    title: str
    view_SS: np.ndarray
    heat_GG: np.ndarray | None
    place: tuple[float, float] | None


@dataclass(frozen=True)
class Outcome:
    """Table and curves of one analysis, for the trained model and the same model before training."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str
    """How to read it."""
    curves: dict[str, list[float]] = field(default_factory=dict)
    """Line of the picture → values."""
    maps: list[HeatMap] = field(default_factory=list)
    """Of the picture, and only of it."""

    def record(self) -> dict[str, Any]:
        """What is kept as JSON."""
        return asdict(replace(self, maps=[]))


def read_outcomes(run: storage.Place) -> list[tuple[Outcome, bytes]]:
    """What was found of a run so far, with its pictures (PNG).

    Raises:
        UserError: a file of it is damaged.
    """
    files = [file for file in storage.children(run / FOLDER) if file.name.endswith(".json")]
    pictures = [run / FOLDER / f"{file.name.removesuffix('.json')}.png" for file in files]
    return [
        (_read(file), storage.fetch_named(picture, _LARGEST_PICTURE))
        for file, picture in zip(files, pictures, strict=True)
        if storage.exists(picture)
    ]


@dataclass(frozen=True)
class _Record:
    name: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str
    curves: dict[str, list[float]]


def _read(file: storage.Place) -> Outcome:
    return Outcome(**vars(from_dict(_Record, storage.read_json(file), file.url)))


def explained(errors_N: np.ndarray, of_zero_N: np.ndarray, patients: Sequence[str]) -> str:
    """Share of the variance that a prediction explains, 1 - sum of errors over sum of those of what counts as zero,
    with a 95 % interval by patient. Both are sums of squares of each image; "none known" where there is nothing.
    """
    if not of_zero_N.sum() > 0:
        return "none known"

    def share(weights_KN: np.ndarray, _: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return 1.0 - (weights_KN @ errors_N) / (weights_KN @ of_zero_N)

    return _told(bootstrap(share, patients, seed=0))


def interval(values_N: np.ndarray, patients: Sequence[str], classes_N: np.ndarray | None = None) -> str:
    """Mean over images, with a 95 % interval by patient; with classes, the mean of each class's mean."""
    known_N = np.isfinite(values_N)
    classes_N = np.zeros(len(values_N)) if classes_N is None else classes_N
    members_CN = known_N & (classes_N == np.unique(classes_N)[:, None])

    def mean(weights_KN: np.ndarray, _: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            means_CK = [(weights_KN * of) @ np.nan_to_num(values_N) / (weights_KN @ of) for of in members_CN]
        return np.mean(means_CK, axis=0)

    return _told(bootstrap(mean, patients, seed=0))


def _told(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
