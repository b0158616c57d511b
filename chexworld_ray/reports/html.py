"""One self-contained HTML page about a run."""

import base64
import time
from collections import defaultdict
from importlib.resources import files
from typing import Any

import jinja2

from chexworld_ray import __version__
from chexworld_ray.analysis.outcome import read_outcomes
from chexworld_ray.config import Science, difference, to_dict
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import DIFFERENCE, MEAN, ResultRow, headlines, read_results
from chexworld_ray.evaluation.statistics import MIN_POSITIVES
from chexworld_ray.metrics.bootstrap import DRAWS
from chexworld_ray.reports.figures import auroc_curves, elastic_curves, training_curves
from chexworld_ray.reports.masks import masks_picture
from chexworld_ray.reports.views import views_picture
from chexworld_ray.shards.manifest import Manifest, load
from chexworld_ray.storage import place, write_bytes
from chexworld_ray.training.log import read_metrics
from chexworld_ray.training.run import Run, checkpoints

NAME = "report.html"


def write_report(run: Run, out: str | None) -> str:
    """Write the page; returns its URL. Data sets that have moved away are named, not shown."""
    records = read_metrics(run.root)
    rows = headlines(read_results(run.root))
    data, missing = _data_sets(run)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("chexworld_ray.reports") / "report.html.j2").read_text(encoding="utf-8"))
    stored = checkpoints(run.root)
    page = template.render(
        name=run.root.name,
        url=run.root.url,
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        images_seen=stored[-1].position if stored else 0,
        last=records[-1] if records else None,
        settings=_settings(run.science),
        starts=run.starts,
        data=[manifest.counts() | {"url": manifest.root.url} for manifest in data],
        missing=missing,
        views=base64.b64encode(views_picture(data[0], run.science)).decode() if data else None,
        masks=base64.b64encode(masks_picture(run.science.masks, run.science.model.grid, run.science.seed)).decode(),
        curves=training_curves(records) if records else None,
        elastic=elastic_curves(records),
        auroc=auroc_curves(rows),
        tables=_tables(rows),
        analyses=[(outcome, base64.b64encode(shown).decode()) for outcome, shown in read_outcomes(run.root)],
        differences=_newest_differences(rows),
        draws=DRAWS,
        min_positives=MIN_POSITIVES,
    )
    target = place(out) if out else run.root / NAME
    write_bytes(target, page.encode())
    return target.url


def _data_sets(run: Run) -> tuple[list[Manifest], list[str]]:
    found: list[Manifest] = []
    missing: list[str] = []
    for entry in run.data:
        try:
            manifest = load(entry["url"])
        except UserError:
            missing.append(entry["url"])
            continue
        if manifest.data_version == entry["version"]:
            found.append(manifest)
        else:
            missing.append(f"{entry['url']} (now another version)")
    return found, missing


def _settings(science: Science) -> list[tuple[str, Any, bool]]:
    """(name, value, differs from the paper's recipe) of every setting."""
    record = to_dict(science)
    changed = {line.split(":")[0] for line in difference(to_dict(Science()), record)}
    flat: list[tuple[str, Any, bool]] = []

    def walk(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                flat.append((prefix + key, value, prefix + key in changed))

    walk(record, "")
    return flat


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
        for name, metric in sorted({(row.task, row.metric) for row in found}, key=lambda key: (_is_mean(key[0]), key)):
            cells = {_column(row): row for row in found if (row.task, row.metric) == (name, metric)}
            some = next(iter(cells.values()))
            line = {"label": name.split("/", 1)[1], "metric": metric, "n": some.n, "positives": some.positives}
            lines.append(line | {"mean": _is_mean(name), "cells": [cells.get(column) for column in columns]})
        heads = [(f"{protocol}{_share(fraction)}", encoder) for protocol, fraction, _, _, encoder in columns]
        tables.append({"name": task, "columns": heads, "lines": lines})
    return tables


def _column(row: ResultRow) -> tuple[str, float, str, int, str]:
    return row.protocol, row.fraction, row.run, row.images_seen, row.encoder


def _is_mean(task: str) -> bool:
    return task.endswith(f"/{MEAN}")


def _share(fraction: float) -> str:
    return "" if fraction == 1.0 else f", {100 * fraction:g} % of labels"
