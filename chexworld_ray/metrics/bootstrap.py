"""Confidence intervals by resampling patients, and what follows from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
MAX_REDRAWS = 100  # times DRAWS, after which a label is too rare to say anything


@dataclass(frozen=True)
class Interval:
    """95 % percentile interval; `redrawn` draws held one class only and were drawn again."""

    value: float
    low: float
    high: float
    redrawn: int
    p: float
    """Two-sided: how often the resampled value lies on the other side of 0 (for differences)."""


def patient_weights(patients: Sequence[str], rng: np.random.Generator, draws: int) -> np.ndarray:
    """How often each image is drawn, draws x images: patients are resampled with all their images."""
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=draws)
    return counts[:, index]


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], patients: Sequence[str], seed: int, draws: int = DRAWS
) -> Interval:
    """Interval of a statistic that takes weights (draws x images) and returns a value a draw, NaN to be redrawn."""
    rng = np.random.default_rng(seed)
    value = float(statistic(np.ones((1, len(patients))))[0])
    kept: list[np.ndarray] = []
    redrawn = 0
    while sum(map(len, kept)) < draws:
        sample = statistic(patient_weights(patients, rng, draws))
        good = sample[np.isfinite(sample)]
        needed = draws - sum(map(len, kept))
        used = int(np.searchsorted(np.cumsum(np.isfinite(sample)), needed)) + 1 if len(good) >= needed else len(sample)
        redrawn += int((~np.isfinite(sample[:used])).sum())
        kept.append(good[:needed])
        if redrawn > MAX_REDRAWS * draws:
            return Interval(value, float("nan"), float("nan"), redrawn, float("nan"))
    samples = np.concatenate(kept)
    low, high = np.percentile(samples, (2.5, 97.5))
    p = min(1.0, 2.0 * (min((samples <= 0).sum(), (samples >= 0).sum()) + 1) / (draws + 1))
    return Interval(value, float(low), float(high), redrawn, float(p))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-corrected p-values (Holm 1979), in the given order."""
    order = np.argsort(p_values)
    corrected, running = np.empty(len(order)), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = running
    return corrected.tolist()
