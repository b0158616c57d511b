"""Curves of a run and of its results, as inline SVG."""

import html
import io
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from chexworld_ray.evaluation.results import ResultRow, leading
from chexworld_ray.reports.labels import short

matplotlib.use("Agg")

GAP, GAP_MINUTES = 10.0, 0.1  # times the usual distance of two records, and at least so long

CURVES = (
    ("loss", ("loss", "loss_local", "loss_global", "loss_domain", "loss_visible")),
    ("RankMe of centred features", ("target_rankme_centred", "prediction_rankme_centred")),
    ("RankMe, not centred (older program)", ("rankme", "rankme_prediction")),
    ("standard deviation over images", ("target_std_over_images", "prediction_std_over_images")),
    ("standard deviation over tokens (older program)", ("target_std", "prediction_std")),
    ("gradient norm", ("grad_norm",)),
    ("online kNN probe on val, AUROC", ("probe_knn",)),
    ("steps skipped", ("skipped_fraction",)),
    ("learning rate", ("lr",)),
    ("images/s", ("images_per_second",)),
    ("share of the time: waiting, saving", ("wait_fraction", "checkpoint_fraction")),
    ("most memory of a worker, GiB", ("memory_gib",)),
)


COMPARED_CURVES = (
    ("loss", "loss"),
    ("RankMe of target features, centred", "target_rankme_centred"),
    ("RankMe, not centred (older program)", "rankme"),
    ("standard deviation of target features over images", "target_std_over_images"),
    ("the same over tokens (older program)", "target_std"),
    ("gradient norm", "grad_norm"),
    ("online kNN probe on val, AUROC", "probe_knn"),
    ("images/s", "images_per_second"),
    ("share of the time waiting for data", "wait_fraction"),
    ("most memory of a worker, GiB", "memory_gib"),
    ("workers", "workers"),
)


def to_svg(figure: Figure, told: str) -> str:
    """An SVG element without its XML header; `told` is for who does not see it."""
    text = _saved(figure, format="svg", metadata={"Date": None}).decode()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(told)}"', 1)


def to_png(figure: Figure) -> bytes:
    """A picture file."""
    return _saved(figure, format="png", dpi=90)


def _saved(figure: Figure, **options: Any) -> bytes:
    """Names are text, whatever they hold: no formula in $…$, no endless line, no complaint about a missing glyph."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            text.set_parse_math(False)
            text.set_text(short(text.get_text()))
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def legend_name(name: str) -> str:
    """Matplotlib leaves out of legends what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def training_curves(records: Sequence[dict[str, Any]]) -> str:
    """Small panels over images seen, of what was recorded."""
    panels = [(title, lines) for title, names in CURVES if (lines := _lines(records, names))]
    rows = -(-len(panels) // 4)
    figure = Figure(figsize=(13, 2.6 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 4, squeeze=False).flat)
    for axis, (title, lines) in zip(axes, panels, strict=False):
        for name, points in lines.items():
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1.4, marker=".")
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.supxlabel("images seen", fontsize=9)
    return to_svg(figure, "curves of training over images seen")


def compared_curves(runs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str | None:
    """Panels over images seen with a line for each run; runs of one name (seeds of a variant) share a colour."""
    panels = [(title, name) for title, name in COMPARED_CURVES if any(_lines(found, [name]) for _, found in runs)]
    if not panels:
        return None
    names = list(dict.fromkeys(name for name, _ in runs))
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(13, 2.9 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 3, squeeze=False).flat)
    for axis, (title, record) in zip(axes, panels, strict=False):
        for name, found in runs:
            for points in _lines(found, [record]).values():
                colour = f"C{names.index(name) % 10}"
                axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.1, marker=".", label=legend_name(name))
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(list(once.values()), list(once), loc="outside upper center", ncols=6, fontsize=8)
    figure.supxlabel("images seen", fontsize=9)
    return to_svg(figure, "curves of training of all runs over images seen")


def _lines(records: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """name → (images seen, value) of each record that has it."""
    found = {}
    for name in names:
        seen = "probe_images_seen" if name == "probe_knn" else "images_seen"
        found[name] = [(record[seen], record[name]) for record in records if record.get(name) is not None]
    return {name: points for name, points in found.items() if points}


def elastic_curves(records: Sequence[dict[str, Any]]) -> str | None:
    """Workers, images/s and loss over time, shared axis; None where the workers were always as many, or in no record.

    Shaded: no step was taken, or what was done was rolled back and done again, for workers were lost or started.
    """
    kept = [record for record in records if "workers" in record and "time" in record]
    if len({record["workers"] for record in kept}) < 2:
        return None
    minutes = np.array([(record["time"] - kept[0]["time"]) / 60 for record in kept])
    between = np.diff(minutes)
    gaps = np.flatnonzero(between > max(GAP * float(np.median(between)), GAP_MINUTES))
    drawn = np.insert(minutes, gaps + 1, np.nan)
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.4, 1.4))
    for axis, name in zip(axes, ("workers", "images_per_second", "loss"), strict=True):
        values = np.insert(np.array([record[name] for record in kept], float), gaps + 1, np.nan)
        axis.plot(drawn, values, linewidth=1.6 if name == "workers" else 1.0)
        for at in gaps:
            axis.axvspan(minutes[at], minutes[at + 1], color="grey", alpha=0.2, linewidth=0)
    axes[0].set_ylim(0, max(record["workers"] for record in kept) + 0.5)
    axes[0].yaxis.get_major_locator().set_params(integer=True)
    for axis, title in zip(axes, ("workers", "images/s", "loss"), strict=True):
        axis.set_ylabel(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[2].set_xlabel("minutes since the first record that is kept", fontsize=9)
    return to_svg(figure, "workers, images per second and loss over time")


def auroc_curves(rows: Sequence[ResultRow]) -> str | None:
    """AUROC over images seen with its interval, a panel for each task and protocol; None with one point a line.

    Panels: each dataset's mean over labels, or its labels where there is no mean.
    """
    groups: dict[str, dict[str, list[ResultRow]]] = defaultdict(lambda: defaultdict(list))
    shown = [row for row in leading(rows) if row.metric == "auroc" and row.encoder != row.run]
    # a curve begins at the run's own start, which is not always random
    began = {row.run for row in shown if row.encoder == f"{row.run}@start"}
    shown = [row for row in shown if row.run not in began or row.encoder != f"{row.run}@random"]
    several = len({row.run for row in shown}) > 1
    for row in sorted(shown, key=lambda row: row.images_seen):
        share = "" if row.fraction == 1.0 else f", {100 * row.fraction:g} %"
        groups[row.task][f"{row.protocol}{share}, {row.run}" if several else row.protocol + share].append(row)
    if max((len(line) for lines in groups.values() for line in lines.values()), default=0) < 2:
        return None
    tasks = sorted(groups)[:6]
    figure = Figure(figsize=(3.7 * min(3, len(tasks)), 2.9 * -(-len(tasks) // 3)), layout="constrained")
    axes = list(figure.subplots(-(-len(tasks) // 3), min(3, len(tasks)), squeeze=False).flat)
    for axis in axes[len(tasks) :]:
        axis.set_axis_off()
    for axis, task in zip(axes, tasks, strict=False):
        for name, line in sorted(groups[task].items()):
            seen, values = [row.images_seen for row in line], [row.value for row in line]
            errors = [[row.value - row.low for row in line], [row.high - row.value for row in line]]
            axis.errorbar(seen, values, yerr=errors, marker="o", markersize=3, capsize=2, linewidth=1.2, label=name)
        axis.set_title(task, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.supxlabel("images seen (0: before training)", fontsize=9)
    figure.supylabel("test AUROC", fontsize=9)
    return to_svg(figure, "test AUROC over images seen, with 95 % intervals")
