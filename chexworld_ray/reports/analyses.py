"""A picture of each analysis, and its table as text."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from chexworld_ray.analysis.layout import EDGES, PATCH
from chexworld_ray.analysis.outcome import HeatMap, Outcome
from chexworld_ray.analysis.retrieval import KS
from chexworld_ray.reports.figures import to_png

ACROSS = 4  # panels of a row, where there are several rows
LOWEST = -1.5  # of variance explained: what knows nothing may be far below, and would flatten what does


def picture(outcome: Outcome) -> bytes:
    """A PNG of its curves or maps."""
    if outcome.maps:
        return to_png(_maps(outcome.maps))
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    if outcome.name in DRAWN:
        DRAWN[outcome.name](figure.subplots(), outcome)
    return to_png(figure)


def _maps(maps: list[HeatMap]) -> Figure:
    across = ACROSS if len(maps) > ACROSS + 1 else len(maps)
    down = -(-len(maps) // across)
    figure = Figure(figsize=(2.6 * across, 2.9 * down), layout="constrained")
    for axis, one in zip(figure.subplots(down, across, squeeze=False).flat, maps, strict=True):
        axis.imshow(one.view_SS, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0))
        if one.heat_GG is not None:
            axis.imshow(one.heat_GG, cmap="magma", alpha=0.5, extent=(0, 1, 1, 0), interpolation="bilinear")
        if one.place is not None:
            axis.plot(one.place[1], one.place[0], "x", color="cyan", markersize=9)
        axis.set_title(one.title, fontsize=9)
        axis.set_axis_off()
    return figure


def _retrieval(axis: Axes, outcome: Outcome) -> None:
    width = 0.8 / len(outcome.curves)
    for number, (name, values) in enumerate(outcome.curves.items()):
        axis.bar(np.arange(len(KS)) + number * width, values, width, label=name)
    axis.set_xticks(np.arange(len(KS)) + 0.4 - width / 2, [f"recall@{k}" for k in KS])
    axis.set_ylim(0, 1)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3, axis="y")


def _layout(axis: Axes, outcome: Outcome) -> None:
    labels = ["inside", *(f"{low:g}-{high:g}" for low, high in pairwise(EDGES))]
    worlds = list(dict.fromkeys(name.partition(",")[0] for name in outcome.curves))
    for name, values in outcome.curves.items():
        below = f" (below {LOWEST:g})" if max(values, default=0.0) < LOWEST else ""
        colour = f"C{worlds.index(name.partition(',')[0])}"
        axis.plot(values, "o--" if name.endswith(PATCH) else "o-", color=colour, label=name + below)
    axis.set_xticks(range(len(labels)), labels)
    axis.set_ylim(LOWEST, 1.0)
    axis.axhline(0.0, color="grey", linewidth=0.8)
    axis.set_xlabel("distance from what is seen, sides of the view")
    axis.set_ylabel("variance explained")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


def _capacity(axis: Axes, outcome: Outcome) -> None:
    for name, shares in outcome.curves.items():
        axis.plot(np.arange(1, len(shares) + 1), np.maximum(shares, 1e-9), label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter("{x:g}")  # its own writes formulas, which no figure of ours reads
        side.set_minor_formatter(NullFormatter())
    axis.set_xlabel("dimension, by variance")
    axis.set_ylabel("share of the variance")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


DRAWN: dict[str, Callable[[Axes, Outcome], None]] = {"retrieval": _retrieval, "layout": _layout, "capacity": _capacity}


def analysis_table(outcome: Outcome) -> str:
    """Title, aligned table and how to read it."""
    lines = [outcome.columns, *outcome.rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(outcome.columns))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([outcome.title, *text, outcome.note])
