"""What variants score, beside the floor, and how they differ from the first, as points and bars with intervals."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chexworld_ray.evaluation.results import DIFFERENCE, ResultRow, leading
from chexworld_ray.evaluation.sweep import from_floor, is_floor, verdict
from chexworld_ray.reports.figures import to_svg
from chexworld_ray.reports.labels import short
from chexworld_ray.reports.text import asked

COLOURS = {"better": "#2a7f4f", "worse": "#b3402e", "undecided": "#8a94a6"}
MOST = 6  # panels


def bars(rows: Sequence[ResultRow]) -> str | None:
    """A row of panels for each task, protocol and share of the labels: values, and where there are any, differences.

    Of a task with several labels the mean over them, else its label. None without rows.
    """
    values = [row for row in rows if not row.metric.endswith(DIFFERENCE)]
    shown = leading(values)
    panels = sorted({(row.task, row.protocol, row.fraction, row.metric) for row in shown})[:MOST]
    if not panels:
        return None
    variants = list(dict.fromkeys(row.encoder for row in shown))[::-1]
    compared = any(row.metric.endswith(DIFFERENCE) for row in rows)
    height = 0.7 + 0.3 * len(variants)
    figure = Figure(figsize=(11 if compared else 6, height * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 2 if compared else 1, squeeze=False, sharey=True)
    for axes, (task, protocol, fraction, metric) in zip(grid, panels, strict=True):
        of_panel = [row for row in rows if (row.task, row.protocol, row.fraction) == (task, protocol, fraction)]
        _values(axes[0], [row for row in of_panel if row.metric == metric], variants)
        axes[0].set_title(f"{task}, {asked(protocol, fraction)}: {metric}", fontsize=10)
        if compared:
            of_first = [row for row in of_panel if row.metric == metric + DIFFERENCE and not from_floor(row)]
            _differences(axes[1], of_first, variants)
            axes[1].set_title("difference from the first", fontsize=10)
    return to_svg(figure, "values of each variant and differences from the first, with 95 % intervals")


def _values(axis: Axes, rows: Sequence[ResultRow], variants: Sequence[str]) -> None:
    for row in rows:
        at, reach = variants.index(row.encoder), [[row.value - row.low], [row.high - row.value]]
        floor = is_floor(row.encoder)
        colour = COLOURS["undecided"] if floor else "#27508f"
        axis.errorbar(row.value, at, xerr=reach, marker="o", markersize=5, capsize=3, color=colour)
        if floor:
            axis.axvline(row.value, color=colour, linewidth=1, linestyle="--")
    _rule(axis, variants)


def _differences(axis: Axes, rows: Sequence[ResultRow], variants: Sequence[str]) -> None:
    for row in rows:
        at, reach = variants.index(row.encoder.partition(" - ")[0]), [[row.value - row.low], [row.high - row.value]]
        told = verdict(row)
        axis.barh(at, row.value, height=0.6, color=COLOURS[told], alpha=0.75)
        axis.errorbar(row.value, at, xerr=reach, capsize=3, color="black", linewidth=1)
        axis.annotate(f" {told}", (max(row.high, 0.0), at), va="center", fontsize=8, color=COLOURS[told])
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.margins(x=0.18)
    _rule(axis, variants)


def _rule(axis: Axes, variants: Sequence[str]) -> None:
    axis.set_yticks(range(len(variants)), [short(name) for name in variants])
    axis.set_ylim(-0.6, len(variants) - 0.4)
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", alpha=0.3)
