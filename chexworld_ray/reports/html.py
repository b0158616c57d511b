"""One self-contained HTML page about a run."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from chexworld_ray.analysis.outcome import read_outcomes
from chexworld_ray.config import Science, difference, flat, to_dict
from chexworld_ray.evaluation.results import DIFFERENCE, ResultRow, headlines, is_mean, leading
from chexworld_ray.evaluation.results_file import read_results
from chexworld_ray.evaluation.statistics import MIN_POSITIVES
from chexworld_ray.metrics.bootstrap import DRAWS
from chexworld_ray.reports.data_card import data_card, data_sets
from chexworld_ray.reports.figures import auroc_curves, elastic_curves, training_curves
from chexworld_ray.reports.masks import masks_picture
from chexworld_ray.reports.page import embedded, render
from chexworld_ray.reports.text import asked
from chexworld_ray.reports.views import views_picture
from chexworld_ray.storage import place, write_bytes
from chexworld_ray.training.log import read_numbers
from chexworld_ray.training.run import Run, checkpoints

NAME = "report.html"


def write_report(run: Run, out: str | None, allowed: Sequence[str] = ()) -> str:
    """Write the page; returns its URL. Data sets that have moved away are named, not shown; so are those outside of the
    run's store that are not below one of the prefixes that the user `allowed`.
    """
    records = read_numbers(run.root)
    rows = headlines(read_results(run.root))
    data, missing = data_sets(run, allowed)
    stored = checkpoints(run.root)
    newest = _newest_differences(rows)
    page = render(
        "report.html.j2",
        name=run.root.name,
        url=run.root.url,
        images_seen=stored[-1].position if stored else 0,
        last=records[-1] if records else None,
        settings=_settings(run.science),
        starts=run.starts,
        data=[data_card(manifest) for manifest in data],
        missing=missing,
        views=embedded(views_picture(data[0], run.science, run.plan)) if data else None,
        masks=embedded(masks_picture(run.science.masks, run.science.model.grid, run.science.seed)),
        curves=training_curves(records) if records else None,
        elastic=elastic_curves(records),
        auroc=auroc_curves(rows),
        tables=_tables(rows),
        analyses=[(outcome, embedded(shown)) for outcome, shown in read_outcomes(run.root)],
        differences=newest,
        leading=leading(newest),
        draws=DRAWS,
        min_positives=MIN_POSITIVES,
    )
    target = place(out) if out else run.root / NAME
    write_bytes(target, page)
    return target.url


def _settings(science: Science) -> list[tuple[str, Any, bool]]:
    """(name, value, differs from the paper's recipe) of every setting."""
    record = to_dict(science)
    changed = {line.split(":")[0] for line in difference(to_dict(Science()), record)}
    return [(name, value, name in changed) for name, value in flat(record).items()]


def _newest_differences(rows: list[ResultRow]) -> list[ResultRow]:
    """Differences of the newest checkpoints; a run that is watched leaves those of earlier ones as well."""
    found = [row for row in rows if row.metric.endswith(DIFFERENCE)]
    newest: dict[str, int] = {}
    for row in found:
        newest[row.run] = max(newest.get(row.run, 0), row.images_seen)
    return [row for row in found if row.images_seen == newest[row.run]]


def _tables(rows: list[ResultRow]) -> list[dict[str, Any]]:
    """One table a task: labels and metrics down; protocol, share of the labels and encoder across."""
    by_task: dict[str, list[ResultRow]] = defaultdict(list)
    for row in rows:
        if not row.metric.endswith(DIFFERENCE):
            by_task[row.task.split("/", 1)[0]].append(row)
    tables = []
    for task, found in sorted(by_task.items()):
        columns = sorted({_column(row) for row in found})
        lines = []
        for name, metric in sorted({(row.task, row.metric) for row in found}, key=lambda key: (is_mean(key[0]), key)):
            cells = {_column(row): row for row in found if (row.task, row.metric) == (name, metric)}
            some = next(iter(cells.values()))
            line = {"label": name.split("/", 1)[1], "metric": metric, "n": some.n, "positives": some.positives}
            lines.append(line | {"mean": is_mean(name), "cells": [cells.get(column) for column in columns]})
        heads = [(asked(protocol, fraction), encoder) for protocol, fraction, _, _, encoder in columns]
        tables.append({"name": task, "columns": heads, "lines": lines})
    return tables


def _column(row: ResultRow) -> tuple[str, float, str, int, str]:
    return row.protocol, row.fraction, row.run, row.images_seen, row.encoder
