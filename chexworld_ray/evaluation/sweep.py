"""The table of a sweep: what each variant scores over its seeds, and a paired test against the first variant."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from chexworld_ray.evaluation.results import (
    DIFFERENCE,
    Comparison,
    ResultRow,
    ScoredTrial,
    alike,
    differences,
    mean_rows,
)

SIGNIFICANT = 0.05


Column = tuple[str, str, float, str]
"""Task with its label, protocol, share of the labels, and metric."""


def cell_of(row: ResultRow) -> tuple[str, Column]:
    """Variant, and what of it a value, or a difference from the first variant, is about."""
    column = (row.task, row.protocol, row.fraction, row.metric.removesuffix(DIFFERENCE))
    return row.encoder.partition(" - ")[0], column


def run_name(variant: str, seed: int) -> str:
    """Folder of a variant's run."""
    return f"{variant}-{seed}"


def variant_of(run: str) -> str:
    """The variant that a run of a sweep is a seed of."""
    return run.rpartition("-")[0] or run


@dataclass(frozen=True)
class VariantTrials:
    """Trials of one variant's runs, whatever their seeds."""

    name: str
    trials: Sequence[ScoredTrial]


def sweep_rows(variants: Sequence[VariantTrials], bootstrap_seed: int = 0) -> list[ResultRow]:
    """Means over seeds and draws of each variant, and their differences from the first, paired by seed and draw.

    Intervals are over patients and seeds, both resampled; p-values are Holm-corrected over the whole table.
    """
    rows: list[ResultRow] = []
    for variant in variants:
        cells: dict[tuple[str, str, float], list[ScoredTrial]] = defaultdict(list)
        for trial in variant.trials:
            cells[trial.task, trial.protocol, trial.fraction].append(trial)
        for same in cells.values():
            rows += [
                replace(row, encoder=variant.name, seed=None, draw=None, run=variant.name)
                for row in mean_rows(same, bootstrap_seed)
            ]
    first = variants[0]
    comparisons = [
        Comparison(
            variant.name,
            first.name,
            [
                (trial, other)
                for trial in variant.trials
                for other in first.trials
                if trial.seed == other.seed and alike(trial, other)
            ],
        )
        for variant in variants[1:]
    ]
    return rows + differences(comparisons, bootstrap_seed)


def verdict(difference: ResultRow) -> Literal["better", "worse", "undecided"]:
    """What a difference from the first variant says: undecided where its interval holds 0 or p_holm is 5 % or more."""
    sure = difference.p_holm is not None and difference.p_holm < SIGNIFICANT
    if not sure or difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if difference.value > 0 else "worse"
