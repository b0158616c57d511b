"""From scores to `results.parquet`: values with intervals, means over labels and seeds, paired differences."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa

from chexworld_ray.metrics.bootstrap import Interval, bootstrap, holm
from chexworld_ray.metrics.classification import auroc
from chexworld_ray.shards.parquet import read_table, write_table
from chexworld_ray.storage import Place, exists

NAME = "results.parquet"
MIN_POSITIVES = 10
MEAN = "mean"


@dataclass(frozen=True)
class ScoredTrial:
    """Test scores of one encoder (a run's checkpoint, or its random start), protocol and dataset."""

    run: str
    images_seen: int
    random: bool
    """The random-initialised encoder: the floor."""
    seed: int
    dataset: str
    protocol: str
    scores: pa.Table

    @property
    def encoder(self) -> str:
        """How results name it."""
        return f"{self.run}@{'random' if self.random else self.images_seen}"


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One number of the table. `task` is dataset/label; mean over labels: dataset/mean."""

    encoder: str
    task: str
    protocol: str
    fraction: float
    seed: int | None
    metric: str
    value: float
    low: float
    high: float
    n: int
    positives: int
    redrawn: int
    run: str
    images_seen: int
    p_holm: float | None = None


@dataclass(frozen=True)
class _Scores:
    truth: np.ndarray
    score: np.ndarray
    patients: list[str]


def result_rows(trials: Sequence[ScoredTrial], bootstrap_seed: int = 0) -> list[ResultRow]:
    """All rows: each trial, then the differences trained - random of each run, and their mean over runs."""
    rows = [row for trial in trials for row in _trial_rows(trial, bootstrap_seed)]
    return rows + _differences(trials, bootstrap_seed)


def _labels(trial: ScoredTrial) -> dict[str, _Scores]:
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in trial.scores.to_pylist():
        grouped[row["label"]].append(row)
    return {
        label: _Scores(
            np.array([row["truth"] for row in rows]),
            np.array([row["score"] for row in rows]),
            [row["patient_id"] for row in rows],
        )
        for label, rows in grouped.items()
    }


def _trial_rows(trial: ScoredTrial, seed: int) -> list[ResultRow]:
    labels = _labels(trial)
    rows = []
    for label, part in labels.items():
        interval = bootstrap(lambda w, part=part: auroc(part.truth, part.score, w), part.patients, seed)
        rows.append(_row(trial, f"{trial.dataset}/{label}", "auroc", interval, part))
    common = [row for row in rows if row.positives >= MIN_POSITIVES]
    if len(common) > 1:
        rows.append(_mean_row(trial, [labels[row.task.split("/", 1)[1]] for row in common], seed))
    return rows


def _mean_row(trial: ScoredTrial, parts: list[_Scores], seed: int) -> ResultRow:
    """Mean over labels with enough positives; patients are resampled once for all labels."""
    patients = sorted({patient for part in parts for patient in part.patients})
    column = {patient: number for number, patient in enumerate(patients)}

    def mean(weights: np.ndarray) -> np.ndarray:
        values = [auroc(part.truth, part.score, weights[:, [column[p] for p in part.patients]]) for part in parts]
        return np.mean(values, axis=0)

    interval = bootstrap(mean, patients, seed)
    largest = max(parts, key=lambda part: len(part.truth))
    return _row(trial, f"{trial.dataset}/{MEAN}", "auroc", interval, largest)


def _row(
    trial: ScoredTrial,
    task: str,
    metric: str,
    interval: Interval,
    part: _Scores,
    **other: Any,
) -> ResultRow:
    values: dict[str, Any] = {
        "encoder": trial.encoder,
        "seed": trial.seed,
        "run": trial.run,
        "images_seen": trial.images_seen,
    }
    return ResultRow(
        **(values | other),
        task=task,
        protocol=trial.protocol,
        fraction=1.0,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=len(part.truth),
        positives=int(part.truth.sum()),
        redrawn=interval.redrawn,
    )


def _differences(trials: Sequence[ScoredTrial], seed: int) -> list[ResultRow]:
    """Newest checkpoint minus random start, by paired patient bootstrap; Holm-corrected over the table of means."""
    newest = {run: max(t.images_seen for t in trials if t.run == run) for run in {t.run for t in trials}}
    pairs: dict[tuple[str, str], list[tuple[ScoredTrial, ScoredTrial]]] = defaultdict(list)
    for trial in trials:
        floor = next(
            (
                t
                for t in trials
                if t.random and (t.run, t.dataset, t.protocol) == (trial.run, trial.dataset, trial.protocol)
            ),
            None,
        )
        if floor is not None and not trial.random and trial.images_seen == newest[trial.run]:
            pairs[trial.dataset, trial.protocol].append((trial, floor))
    rows: list[ResultRow] = []
    tested: list[tuple[ResultRow, float]] = []
    for both in pairs.values():
        if len(both) > 1:
            rows += [row for pair in both for row, _ in _paired([pair], seed)]
        tested += _paired(both, seed)
    corrected = holm([p for _, p in tested])
    return rows + [replace(row, p_holm=p) for (row, _), p in zip(tested, corrected, strict=True)]


def _paired(both: list[tuple[ScoredTrial, ScoredTrial]], seed: int) -> list[tuple[ResultRow, float]]:
    """Seed-mean difference of each label with enough positives, and its p-value."""
    labels = [(_labels(trained), _labels(floor)) for trained, floor in both]
    trial = both[0][0]
    found = []
    for label in sorted(set.intersection(*(set(a) & set(b) for a, b in labels))):
        parts = [(a[label], b[label]) for a, b in labels]

        def difference(weights: np.ndarray, parts: list[tuple[_Scores, _Scores]] = parts) -> np.ndarray:
            return np.mean(
                [auroc(a.truth, a.score, weights) - auroc(b.truth, b.score, weights) for a, b in parts],
                axis=0,
            )

        first = parts[0][0]
        if first.truth.sum() < MIN_POSITIVES:
            continue
        interval = bootstrap(difference, first.patients, seed)
        pooled = len(both) > 1
        row = _row(
            trial,
            f"{trial.dataset}/{label}",
            "auroc_difference",
            interval,
            first,
            encoder=f"{'mean of ' + str(len(both)) + ' seeds' if pooled else trial.encoder} - random",
            seed=None if pooled else trial.seed,
            run=",".join(t.run for t, _ in both),
        )
        found.append((row, interval.p))
    return found


def write_results(out: Place, rows: Sequence[ResultRow]) -> None:
    """Write results.parquet, whole."""
    write_table(out / NAME, pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA))


def merge(old: Sequence[ResultRow], new: Sequence[ResultRow]) -> list[ResultRow]:
    """New rows, and of the old ones those that they do not replace (other data, protocols or checkpoints)."""

    def key(row: ResultRow) -> tuple[object, ...]:
        return row.encoder, row.task, row.protocol, row.fraction, row.seed, row.metric

    replaced = {key(row) for row in new}
    return [row for row in old if key(row) not in replaced] + list(new)


def read_results(out: Place) -> list[ResultRow]:
    """Rows of results.parquet; empty where there is none."""
    if not exists(out / NAME):
        return []
    return [ResultRow(**row) for row in read_table(out / NAME).to_pylist()]


_TEXT, _COUNT = (
    ("encoder", "task", "protocol", "metric", "run"),
    ("seed", "n", "positives", "redrawn", "images_seen"),
)
_SCHEMA = pa.schema(
    [
        (
            field.name,
            pa.string() if field.name in _TEXT else pa.int64() if field.name in _COUNT else pa.float64(),
        )
        for field in fields(ResultRow)
    ]
)
