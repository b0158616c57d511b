"""The table of a sweep: what each variant scores over its seeds, and paired tests against the first variant and against
the floor: the same models with random weights.
"""

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
FLOOR = "random"
"""How results name a sweep's models with random weights; no variant has that name."""

Column = tuple[str, str, float, str]
"""Task with its label, protocol, share of the labels, and metric."""


def cell_of(row: ResultRow) -> tuple[str, Column]:
    """Variant, and what of it a value, or a difference from the first variant, is about."""
    column = (row.task, row.protocol, row.fraction, row.metric.removesuffix(DIFFERENCE))
    return row.encoder.partition(" - ")[0], column


def floor_name(variants: Sequence[str]) -> str:
    """How results name the start of these variants, where others started from other weights; of all: FLOOR."""
    return f"{FLOOR} of {', '.join(variants)}"


def is_floor(name: str) -> bool:
    """Whether results call a start so."""
    return name == FLOOR or name.startswith(f"{FLOOR} of ")


def from_floor(row: ResultRow) -> bool:
    """Whether a row is a difference from a start."""
    return is_floor(row.encoder.partition(" - ")[2])


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
    floor: "VariantTrials | None" = None
    """Its models with random weights; variants of the same model share one."""


def sweep_rows(variants: Sequence[VariantTrials], bootstrap_seed: int = 0) -> list[ResultRow]:
    """Means over seeds and draws of each variant and each start, and differences of the variants from the first and
    from their start, paired by seed and draw.

    Intervals are over patients and seeds, both resampled. p-values are Holm-corrected over all differences from the
    first, and over all from a start: these are two questions, and the second must not make the first harder.
    """
    rows: list[ResultRow] = []
    floors = {variant.floor.name: variant.floor for variant in variants if variant.floor is not None}
    for variant in (*variants, *floors.values()):
        cells: dict[tuple[str, str, float], list[ScoredTrial]] = defaultdict(list)
        for trial in variant.trials:
            cells[trial.task, trial.protocol, trial.fraction].append(trial)
        for same in cells.values():
            rows += [
                replace(row, encoder=variant.name, seed=None, draw=None, run=variant.name)
                for row in mean_rows(same, bootstrap_seed)
            ]
    from_first = [_compared(variant, variants[0]) for variant in variants[1:]]
    from_start = [_compared(variant, variant.floor) for variant in variants if variant.floor is not None]
    return rows + differences(from_first, bootstrap_seed) + differences(from_start, bootstrap_seed)


def _compared(one: VariantTrials, other: VariantTrials) -> Comparison:
    """Trials of both that ask the same of the same seed."""
    pairs = [(a, b) for a in one.trials for b in other.trials if a.seed == b.seed and alike(a, b)]
    return Comparison(one.name, other.name, pairs)


def verdict(difference: ResultRow) -> Literal["better", "worse", "undecided"]:
    """What a difference says: undecided where its interval holds 0 or p_holm is 5 % or more."""
    sure = difference.p_holm is not None and difference.p_holm < SIGNIFICANT
    if not sure or difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if difference.value > 0 else "worse"
