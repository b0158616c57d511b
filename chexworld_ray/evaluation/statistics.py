"""Numbers out of test scores, each with an interval by patient and fit: of a label, and means over labels and fits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from chexworld_ray.metrics import classification
from chexworld_ray.metrics.bootstrap import Interval, bootstrap

MIN_POSITIVES = 10
SPECIFICITY = 0.9
AVERAGED = ("auroc", "ap", "dice", "dice_positive", "hd95")
COMPARED = ("auroc", "accuracy", "dice", "dice_positive")


@dataclass(frozen=True)
class Scores:
    """Test scores of one label, sorted by image."""

    truth: np.ndarray
    score: np.ndarray
    patients: tuple[str, ...]
    threshold: float | None
    """None for a segmentation, whose scores are Dice."""
    distance: np.ndarray
    right: np.ndarray | None = None
    """Of a label with several classes: whether the likeliest is the true one."""

    @property
    def positives(self) -> int:
        """Images with the finding."""
        return int(self.truth.sum())

    @property
    def enough(self) -> bool:
        """Whether the label may enter a mean."""
        return self.positives >= MIN_POSITIVES or self.threshold is None


Metric = Callable[[Scores, np.ndarray], np.ndarray]


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    at = np.isfinite(values)
    total = weights[:, at].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (weights[:, at] * values[at]).sum(axis=1) / total, np.nan)


def metrics_of(part: Scores) -> dict[str, Metric]:
    """What can be told of a label's scores."""
    if part.right is not None:
        return {"accuracy": lambda s, w: classification.accuracy(np.asarray(s.right, float), w)}
    if part.threshold is None:
        return {
            "dice": lambda s, w: _mean(s.score, w),
            "dice_positive": lambda s, w: _mean(np.where(s.truth == 1, s.score, np.nan), w),
            "hd95": lambda s, w: _mean(s.distance, w),
        }
    return {
        "auroc": lambda s, w: classification.auroc(s.truth, s.score, w),
        "ap": lambda s, w: classification.average_precision(s.truth, s.score, w),
        "f1": lambda s, w: classification.f1(s.truth, s.score, w, 0.5 if s.threshold is None else s.threshold),
        "sensitivity_at_specificity_0.9": lambda s, w: classification.sensitivity_at(s.truth, s.score, w, SPECIFICITY),
        "ece": lambda s, w: classification.calibration_error(s.truth, s.score, w),
    }


def by_label(table: pa.Table) -> dict[str, Scores]:
    """label → scores; a label with several classes has one entry a class (`label=value`) and one of its own."""
    table = table.sort_by([("label", "ascending"), ("image_id", "ascending")])
    names = np.array(table["label"].to_pylist(), object)
    groups = np.array(table["group"].to_pylist(), object)
    columns = {
        name: table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        for name in ("truth", "score", "threshold", "distance")
    }
    patients = table["patient_id"].to_pylist()
    found: dict[str, Scores] = {}
    for name in dict.fromkeys(names):
        at = np.flatnonzero(names == name)
        threshold = columns["threshold"][at[0]]
        found[name] = Scores(
            columns["truth"][at],
            columns["score"][at],
            tuple(patients[row] for row in at),
            None if np.isnan(threshold) else float(threshold),
            columns["distance"][at],
        )
    for group in dict.fromkeys(groups):
        classes = [found[name] for name in dict.fromkeys(names[groups == group]) if name != group]
        if classes:
            likeliest = np.argmax([part.score for part in classes], axis=0)
            truth = np.stack([part.truth for part in classes])  # all 0 where training has nothing of an image's class
            right = np.take_along_axis(truth, likeliest[None], axis=0)[0] == 1
            first = classes[0]
            found[group] = Scores(np.ones(len(right)), right.astype(float), first.patients, 0.5, first.distance, right)
    return found


def interval_of(fits: Sequence[Sequence[Scores]], metric: Metric, seed: int) -> Interval:
    """Mean of a metric over fits, and over what belongs to each (labels): patients are resampled once for all."""
    patients = sorted({patient for parts in fits for part in parts for patient in part.patients})
    return bootstrap(
        lambda weights, chosen: (chosen * _per_fit(fits, metric, patients, weights)).sum(axis=1),
        patients,
        seed,
        fits=len(fits),
    )


def difference_of(fits: Sequence[Sequence[tuple[Scores, Scores]]], metric: Metric, seed: int) -> Interval:
    """Mean difference (first - second) over fits and their pairs, which are scored on the same images."""
    patients = sorted({patient for pairs in fits for first, _ in pairs for patient in first.patients})
    first, second = ([[pair[at] for pair in pairs] for pairs in fits] for at in (0, 1))

    def difference(weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        gaps = _per_fit(first, metric, patients, weights) - _per_fit(second, metric, patients, weights)
        return (chosen * gaps).sum(axis=1)

    return bootstrap(difference, patients, seed, fits=len(fits))


def _per_fit(
    fits: Sequence[Sequence[Scores]], metric: Metric, patients: Sequence[str], weights: np.ndarray
) -> np.ndarray:
    """Mean of the metric over the parts of each fit: draws x fits."""
    column: dict[str, int] = {patient: number for number, patient in enumerate(patients)}
    seen: dict[tuple[str, ...], Any] = {}
    values = []
    for parts in fits:
        for part in parts:
            if part.patients not in seen:
                seen[part.patients] = weights[:, [column[patient] for patient in part.patients]]
        values.append(np.mean([metric(part, seen[part.patients]) for part in parts], axis=0))
    return np.stack(values, axis=1)
