"""Confidence intervals by resampling patients and fits, and what follows from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

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
    """Two-sided, of the value being 0 (for differences): normal, with the bootstrap's standard error.

    Counted draws could not fall below 2/DRAWS, which no correction over a table of comparisons would survive.
    """


def patient_weights(patients: Sequence[str], rng: np.random.Generator, draws: int) -> np.ndarray:
    """How often each image is drawn, draws x images: patients are resampled with all their images."""
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=draws)
    return counts[:, index]


Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes weights of images (draws x images) and of fits (draws x fits, rows sum to 1): a value a draw, NaN to redraw."""


def bootstrap(statistic: Statistic, patients: Sequence[str], seed: int, draws: int = DRAWS, fits: int = 1) -> Interval:
    """Interval of a statistic over patients, and over fits (seeds, or draws of labels) where there are several.

    Patients alone would say how sure one can be of *these* networks; whoever trains again gets others (Bouthillier et
    al., MLSys 2021). Of F fits the resampled variance is (F - 1) / F of the true one: with three, still too narrow.
    """
    rng = np.random.default_rng(seed)
    value = float(statistic(np.ones((1, len(patients))), np.full((1, fits), 1.0 / fits))[0])
    kept: list[np.ndarray] = []
    redrawn = 0
    while sum(map(len, kept)) < draws:
        weights = patient_weights(patients, rng, draws)
        sample = statistic(weights, rng.multinomial(fits, np.full(fits, 1.0 / fits), size=draws) / fits)
        good = sample[np.isfinite(sample)]
        needed = draws - sum(map(len, kept))
        used = int(np.searchsorted(np.cumsum(np.isfinite(sample)), needed)) + 1 if len(good) >= needed else len(sample)
        redrawn += int((~np.isfinite(sample[:used])).sum())
        kept.append(good[:needed])
        if redrawn > MAX_REDRAWS * draws:
            return Interval(value, float("nan"), float("nan"), redrawn, float("nan"))
    samples = np.concatenate(kept)
    low, high = np.percentile(samples, (2.5, 97.5))
    error = float(samples.std())
    p = 2.0 * float(norm.sf(abs(value) / error)) if error > 0 else float(value == 0)
    return Interval(value, float(low), float(high), redrawn, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-corrected p-values (Holm 1979), in the given order."""
    order = np.argsort(p_values)
    corrected, running = np.empty(len(order)), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = running
    return corrected.tolist()
