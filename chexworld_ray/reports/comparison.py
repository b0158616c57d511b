"""One self-contained HTML page that compares runs: what they score, how they trained, in which settings they differ."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chexworld_ray.config import flat, to_dict
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import DIFFERENCE, ResultRow, headlines, is_mean
from chexworld_ray.evaluation.results_file import read_results
from chexworld_ray.evaluation.sweep import Column, cell_of, from_floor, variant_of, verdict
from chexworld_ray.metrics.bootstrap import DRAWS
from chexworld_ray.reports.bars import bars
from chexworld_ray.reports.data_card import data_card, data_sets
from chexworld_ray.reports.figures import auroc_curves, compared_curves
from chexworld_ray.reports.html import write_report
from chexworld_ray.reports.page import render
from chexworld_ray.reports.text import asked
from chexworld_ray.storage import Place, children, exists, place, write_bytes
from chexworld_ray.training.log import read_numbers
from chexworld_ray.training.run import CONFIG, Run, checkpoints, load, load_url

NAME = "comparison.html"


def write_page(urls: Sequence[str], out: str | None, allowed: Sequence[str] = ()) -> str:
    """The page of a run, of a sweep, or of several runs; returns its URL. `allowed`: as of `write_report`.

    Raises:
        UserError: no URL, nothing there, or runs that can't be compared.
    """
    if not urls:
        raise UserError("report: --run URL, please")
    if len(urls) > 1:
        return write_comparison([load_url(url) for url in urls], out, allowed)
    root = place(urls[0])
    return write_sweep_report(root, out, allowed) if _is_sweep(root) else write_report(load_url(urls[0]), out, allowed)


def _is_sweep(root: Place) -> bool:
    return not exists(root / CONFIG) and any(exists(folder / CONFIG) for folder in children(root))


def write_comparison(runs: Sequence[Run], out: str | None, allowed: Sequence[str] = ()) -> str:
    """Compare any runs by their own results, by default in the first one's folder; returns the URL of the page.

    Raises:
        UserError: fewer than two, or two of one name.
    """
    names = [run.root.name for run in runs]
    if len(set(names)) < max(2, len(names)):
        raise UserError(f"a comparison needs two runs or more, of different names: {', '.join(names)}")
    results = {run.root.name: headlines(read_results(run.root)) for run in runs}
    rows = [replace(row, encoder=name) for name, found in results.items() for row in _newest(found, name)]
    every = [row for found in results.values() for row in found if not row.metric.endswith(DIFFERENCE)]
    target = place(out) if out else runs[0].root / NAME
    return _write(target, ", ".join(names), {run.root.name: run.root.name for run in runs}, runs, rows, every, allowed)


def write_sweep_report(sweep: Place, out: str | None = None, allowed: Sequence[str] = ()) -> str:
    """The page of a sweep, by default in its folder: means over seeds, also of the starts, and differences from the
    first variant and from the starts.
    """
    runs = [load(folder) for folder in children(sweep) if exists(folder / CONFIG)]
    rows = headlines(read_results(sweep))
    order = dict.fromkeys(row.encoder for row in rows if not row.metric.endswith(DIFFERENCE))
    ranks = {variant: rank for rank, variant in enumerate(order)}
    variants = {run.root.name: variant_of(run.root.name) for run in runs}
    runs.sort(key=lambda run: (ranks.get(variants[run.root.name], len(ranks)), run.root.name))
    return _write(place(out) if out else sweep / NAME, sweep.name, variants, runs, rows, [], allowed)


def _write(
    target: Place,
    name: str,
    variants: dict[str, str],
    runs: Sequence[Run],
    rows: list[ResultRow],
    every: list[ResultRow],
    allowed: Sequence[str],
) -> str:
    """`variants`: run → what it is a seed of; `rows`: what is compared; `every`: also of earlier checkpoints."""
    records = {run.root.name: read_numbers(run.root) for run in runs}
    found = [data_sets(run, allowed) for run in runs]
    data = {manifest.data_version: manifest for manifests, _ in found for manifest in manifests}
    page = render(
        "comparison.html.j2",
        name=name,
        runs=[_facts(run, records[run.root.name]) for run in runs],
        tables=_tables(rows),
        bars=bars(rows),
        settings=_differing(runs, variants),
        curves=compared_curves([(variants[of], lines) for of, lines in records.items() if lines]),
        auroc=auroc_curves(every),
        data=[data_card(manifest) for manifest in data.values()],
        missing=sorted({line for _, lines in found for line in lines}),
        draws=DRAWS,
    )
    write_bytes(target, page)
    return target.url


def _newest(rows: Sequence[ResultRow], run: str) -> list[ResultRow]:
    """What a run's newest evaluated checkpoint scores."""
    own = [row for row in rows if row.encoder.startswith(f"{run}@") and not row.metric.endswith(DIFFERENCE)]
    newest = max((row.images_seen for row in own), default=0)
    return [row for row in own if row.images_seen == newest and newest]


def _facts(run: Run, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A line of the table of runs. Rates are medians over the records: the first one holds the start of the stream."""
    stored = checkpoints(run.root)
    facts: dict[str, Any] = {
        "name": run.root.name,
        "url": run.root.url,
        "images_seen": stored[-1].position if stored else 0,
        "total": run.total,
        "starts": len(run.starts),
    }
    if records:
        facts |= {"loss": records[-1]["loss"], "rankme": records[-1].get("target_rankme_centred")}
        for name in ("images_per_second", "wait_fraction"):
            facts[name] = float(np.median([record[name] for record in records]))
        workers = [record["workers"] for record in records if "workers" in record]
        facts["workers"] = sorted({min(workers), max(workers)}) if workers else []
        facts["memory_gib"] = max((record.get("memory_gib", 0.0) for record in records), default=0.0)
    return facts


def _tables(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """One table a task: variants down; label, protocol, share and metric across. Means over labels come first."""
    values = {cell_of(row): row for row in rows if not row.metric.endswith(DIFFERENCE)}
    compared = [row for row in rows if row.metric.endswith(DIFFERENCE)]
    against, beyond = ({cell_of(row): row for row in compared if from_floor(row) == start} for start in (False, True))
    by_task: dict[str, dict[Column, None]] = defaultdict(dict)
    for _, column in values:
        by_task[column[0].split("/", 1)[0]][column] = None
    variants = list(dict.fromkeys(variant for variant, _ in values))
    tables = []
    for task, found in sorted(by_task.items()):
        columns = sorted(found, key=lambda column: (not is_mean(column[0]), column))
        lines = []
        for variant in variants:
            cells = []
            for column in columns:
                difference, start = against.get((variant, column)), beyond.get((variant, column))
                cells.append(
                    {
                        "row": values.get((variant, column)),
                        "difference": difference,
                        "verdict": verdict(difference) if difference else None,
                        "start": start,
                        "start_verdict": verdict(start) if start else None,
                    }
                )
            lines.append({"variant": variant, "cells": cells})
        tables.append({"name": task, "columns": [_heading(column) for column in columns], "lines": lines})
    return tables


def _heading(column: Column) -> tuple[str, str]:
    task, protocol, fraction, metric = column
    return task.split("/", 1)[1], f"{asked(protocol, fraction)}, {metric}"


def _differing(runs: Sequence[Run], variants: dict[str, str]) -> dict[str, Any]:
    """Settings in which variants differ: their names, and each variant's value; seeds of one variant are one column."""
    columns: dict[str, dict[str, Any]] = {}
    for run in runs:
        columns.setdefault(variants[run.root.name], flat(to_dict(run.science)))
    keys = list(dict.fromkeys(key for settings in columns.values() for key in settings))
    kept = [key for key in keys if len({repr(settings.get(key)) for settings in columns.values()}) > 1]
    return {
        "variants": list(columns),
        "lines": [(key, [settings.get(key) for settings in columns.values()]) for key in kept],
    }
