"""From scores to `results.parquet`: values with intervals, means over labels, draws and seeds, paired differences."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal, TypeVar

import pyarrow as pa

from chexworld_ray.evaluation.statistics import (
    AVERAGED,
    COMPARED,
    Scores,
    by_label,
    difference_of,
    interval_of,
    metrics_of,
)
from chexworld_ray.metrics.bootstrap import Interval, holm

MEAN = "mean"
DIFFERENCE = "_difference"
Kind = Literal["random", "start", "checkpoint", "foreign"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ScoredTrial:
    """Test scores of one encoder, protocol and task."""

    run: str
    """Name of the run, or of a foreign encoder."""
    images_seen: int
    kind: Kind
    """random: a run's encoder with random weights; start: with those of `--init`; foreign: somebody else's."""
    seed: int | None
    """Of the run."""
    task: str
    protocol: str
    scores: pa.Table
    fraction: float = 1.0
    draw: int = 0
    train: int = 0
    """Images that it was fitted on."""
    val: int = 0
    """Images that its epoch or penalty was chosen on."""

    @cached_property
    def labels(self) -> dict[str, Scores]:
        """label → scores."""
        return by_label(self.scores)

    @property
    def encoder(self) -> str:
        """How results name it."""
        if self.kind == "foreign":
            return self.run
        return f"{self.run}@{self.images_seen if self.kind == 'checkpoint' else self.kind}"


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One number of the table. `task` is task/label; mean over labels: task/mean. A mean over draws has no `draw`."""

    encoder: str
    task: str
    protocol: str
    fraction: float
    seed: int | None
    draw: int | None
    metric: str
    value: float
    low: float
    high: float
    n: int
    positives: int
    train: int
    val: int
    redrawn: int
    run: str
    images_seen: int
    p_holm: float | None = None


def result_rows(trials: Sequence[ScoredTrial], bootstrap_seed: int = 0) -> list[ResultRow]:
    """All rows: each trial, means over draws, and differences newest checkpoint - its floors, - foreign encoders."""
    cells: dict[tuple[str, str, str, float], list[ScoredTrial]] = defaultdict(list)
    for trial in trials:
        cells[trial.encoder, trial.task, trial.protocol, trial.fraction].append(trial)
    rows: list[ResultRow] = []
    for same in cells.values():
        rows += [row for trial in same for row in mean_rows([trial], bootstrap_seed)]
        if len(same) > 1:
            rows += [replace(row, draw=None) for row in mean_rows(same, bootstrap_seed)]
    return rows + differences(_against_references(trials), bootstrap_seed)


def _by_fit(trials: Sequence[T], runs: Sequence[str]) -> list[list[T]]:
    """What was fitted together: the trials of a run where there are several runs, else each trial for itself."""
    if len(set(runs)) == 1:
        return [[trial] for trial in trials]
    found: dict[str, list[T]] = defaultdict(list)
    for trial, run in zip(trials, runs, strict=True):
        found[run].append(trial)
    return list(found.values())


def mean_rows(trials: Sequence[ScoredTrial], seed: int) -> list[ResultRow]:
    """Rows of a trial, or of the mean over some that ask the same, named after the first."""
    trial = trials[0]
    fits = _by_fit([trial.labels for trial in trials], [trial.run for trial in trials])
    common = [name for name in trial.labels if all(name in found for fit in fits for found in fit)]
    rows = []
    averaged: dict[str, list[str]] = defaultdict(list)
    for label in common:
        parts = [[found[label] for found in fit] for fit in fits]
        first = parts[0][0]
        for name, metric in metrics_of(first).items():
            rows.append(_row(trial, label, name, interval_of(parts, metric, seed), first))
            if name in AVERAGED and first.enough:
                averaged[name].append(label)
    for name, labels in averaged.items():
        if len(labels) > 1:
            parts = [[found[label] for found in fit for label in labels] for fit in fits]
            largest = max(parts[0], key=lambda part: len(part.truth))
            rows.append(_row(trial, MEAN, name, interval_of(parts, metrics_of(largest)[name], seed), largest))
    return rows


def _row(trial: ScoredTrial, label: str, metric: str, interval: Interval, part: Scores, **other: Any) -> ResultRow:
    values: dict[str, Any] = {
        name: getattr(trial, name)
        for name in ("encoder", "protocol", "fraction", "seed", "draw", "train", "val", "run", "images_seen")
    }
    return ResultRow(
        **(values | other),
        task=f"{trial.task}/{label}",
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=len(part.truth),
        positives=part.positives,
        redrawn=interval.redrawn,
    )


Pair = tuple[ScoredTrial, ScoredTrial]


@dataclass(frozen=True)
class Comparison:
    """What is compared with what, and the trials of both that belong together."""

    first: str
    second: str
    pairs: Sequence[Pair]


def _against_references(trials: Sequence[ScoredTrial]) -> list[Comparison]:
    """Newest checkpoint of each run against random weights, its own start, and every foreign encoder."""
    newest: dict[str, int] = {}
    for trial in trials:
        if trial.kind == "checkpoint":
            newest[trial.run] = max(newest.get(trial.run, 0), trial.images_seen)
    pairs: dict[str, list[Pair]] = defaultdict(list)
    for trial, other in product(trials, trials):
        latest = trial.kind == "checkpoint" and trial.images_seen == newest[trial.run]
        floor = other.kind in ("random", "start") and other.run == trial.run
        if latest and (floor or other.kind == "foreign") and alike(trial, other):
            pairs[other.kind if floor else other.run].append((trial, other))
    found: list[Comparison] = []
    for name, same in pairs.items():
        encoders = list(dict.fromkeys(trial.encoder for trial, _ in same))
        if len(encoders) > 1:
            found += [Comparison(one, name, [pair for pair in same if pair[0].encoder == one]) for one in encoders]
        found.append(Comparison(encoders[0] if len(encoders) == 1 else f"mean of {len(encoders)} seeds", name, same))
    return found


def alike(one: ScoredTrial, other: ScoredTrial) -> bool:
    """Whether two trials ask the same of two encoders."""
    return (one.task, one.protocol, one.fraction, one.draw) == (other.task, other.protocol, other.fraction, other.draw)


def differences(comparisons: Sequence[Comparison], seed: int) -> list[ResultRow]:
    """Mean of first minus second over the pairs of each comparison, by paired patient bootstrap.

    p-values are Holm-corrected over all rows but those of single runs whose mean stands there as well.
    """
    rows: list[tuple[ResultRow, float]] = []
    for comparison in comparisons:
        cells: dict[tuple[str, str, float], list[Pair]] = defaultdict(list)
        for pair in comparison.pairs:
            cells[pair[0].task, pair[0].protocol, pair[0].fraction].append(pair)
        for same in cells.values():
            rows += _paired(same, comparison, seed)
    several = {row.encoder.partition(" - ")[2] for row, _ in rows if row.seed is None}
    alone = [row.seed is not None and row.encoder.partition(" - ")[2] in several for row, _ in rows]
    tested = [at for at, single in enumerate(alone) if not single]
    corrected = dict(zip(tested, holm([rows[at][1] for at in tested]), strict=True))
    return [replace(row, p_holm=corrected.get(at)) for at, (row, _) in enumerate(rows)]


def _paired(pairs: Sequence[Pair], comparison: Comparison, seed: int) -> list[tuple[ResultRow, float]]:
    """Mean difference of each label with enough positives, and its p-value."""
    trial = pairs[0][0]
    runs = list(dict.fromkeys(first.run for first, _ in pairs))
    fits = _by_fit([(first.labels, second.labels) for first, second in pairs], [first.run for first, _ in pairs])
    other: dict[str, Any] = {"encoder": f"{comparison.first} - {comparison.second}", "run": ",".join(runs)}
    other |= {"draw": None} if len(pairs) > len(runs) else {}
    other |= {"seed": None} if len(runs) > 1 else {}
    common = sorted(set.intersection(*(set(a) & set(b) for fit in fits for a, b in fit)))
    cells: dict[tuple[str, str], list[list[tuple[Scores, Scores]]]] = {}
    for label in common:
        parts = [[(a[label], b[label]) for a, b in fit] for fit in fits]
        for name in metrics_of(parts[0][0][0]):
            if name in COMPARED and parts[0][0][0].enough:
                cells[label, name] = parts
    for name in AVERAGED:
        of_name = [parts for (_, metric), parts in cells.items() if metric == name]
        if len(of_name) > 1:
            cells[MEAN, name] = [[pair for pairs in fit for pair in pairs] for fit in zip(*of_name, strict=True)]
    found = []
    for (label, name), parts in cells.items():
        first = parts[0][0][0]
        interval = difference_of(parts, metrics_of(first)[name], seed)
        found.append((_row(trial, label, f"{name}{DIFFERENCE}", interval, first, **other), interval.p))
    return found


def headlines(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The rows that a table shows: headline metrics and differences; means over draws instead of single ones."""

    def cell(row: ResultRow) -> tuple[object, ...]:
        return row.encoder, row.task, row.protocol, row.fraction, row.metric

    pooled = {cell(row) for row in rows if row.draw is None}
    return [
        row
        for row in rows
        if row.metric.removesuffix(DIFFERENCE) in COMPARED and (row.draw is None or cell(row) not in pooled)
    ]


def is_mean(task: str) -> bool:
    """Whether a row's `task` is a mean over labels."""
    return task.endswith(f"/{MEAN}")


def leading(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Of each task with several labels the mean over them, else its label: what is read first."""
    means = {row.task.split("/")[0] for row in rows if is_mean(row.task)}
    return [row for row in rows if is_mean(row.task) or row.task.split("/")[0] not in means]


def merge(old: Sequence[ResultRow], new: Sequence[ResultRow]) -> list[ResultRow]:
    """New rows, and of the old ones those that they do not replace (other data, protocols or checkpoints)."""

    def key(row: ResultRow) -> tuple[object, ...]:
        return row.encoder, row.task, row.protocol, row.fraction, row.seed, row.draw, row.metric

    replaced = {key(row) for row in new}
    return [row for row in old if key(row) not in replaced] + list(new)
