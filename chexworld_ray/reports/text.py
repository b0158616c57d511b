"""Results as text, for a terminal."""

from collections.abc import Sequence

from chexworld_ray.evaluation.results import DIFFERENCE, ResultRow, headlines
from chexworld_ray.evaluation.sweep import cell_of, from_floor, verdict


def results_table(rows: Sequence[ResultRow]) -> str:
    """Headline results as aligned lines: value, 95 % interval, test images and positives, images fitted on."""
    header = (
        "task",
        "protocol",
        "labels",
        "encoder",
        "metric",
        "value",
        "95 % interval",
        "n",
        "positives",
        "fitted on",
        "p (Holm)",
    )
    cells = [
        (
            row.task,
            row.protocol,
            f"{100 * row.fraction:g} %",
            row.encoder,
            row.metric,
            f"{row.value:.3f}",
            f"[{row.low:.3f}, {row.high:.3f}]",
            str(row.n),
            str(row.positives),
            str(row.train),
            "" if row.p_holm is None else f"{row.p_holm:.3f}",
        )
        for row in sorted(headlines(rows), key=_order)
    ]
    return _aligned([header, *cells])


def sweep_table(rows: Sequence[ResultRow]) -> str:
    """A line for each task, protocol, metric and variant, and for what the runs were before training: its value, its
    difference from that start and from the first variant, each with a verdict.

    What its words mean is told in `evaluation.sweep.verdict`.
    """
    told = ("p (Holm)", "")
    asked_of = ("task", "protocol", "labels", "metric", "variant", "value", "95 % interval")
    header = (*asked_of, "from its start", *told, "from the first", *told)
    shown = headlines(rows)
    compared = [row for row in shown if row.metric.endswith(DIFFERENCE)]
    of_first, of_start = (
        {cell_of(row): row for row in compared if from_floor(row) == start} for start in (False, True)
    )
    lines = []
    for row in sorted((row for row in shown if not row.metric.endswith(DIFFERENCE)), key=lambda row: cell_of(row)[1]):
        cell = cell_of(row)
        cells = (row.task, row.protocol, f"{100 * row.fraction:g} %", row.metric, row.encoder)
        found = (*_difference(of_start.get(cell)), *_difference(of_first.get(cell)))
        lines.append((*cells, f"{row.value:.3f}", f"[{row.low:.3f}, {row.high:.3f}]", *found))
    return _aligned([header, *lines])


def _difference(row: ResultRow | None) -> tuple[str, str, str]:
    if row is None:
        return "", "", ""
    return f"{row.value:+.3f} [{row.low:+.3f}, {row.high:+.3f}]", f"{row.p_holm:.3f}", verdict(row)


def asked(protocol: str, fraction: float) -> str:
    """A protocol, with the share of the labels that it was fitted on where that is not all."""
    return protocol if fraction == 1.0 else f"{protocol}, {100 * fraction:g} % of labels"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _order(row: ResultRow) -> tuple[object, ...]:
    return row.task, row.protocol, row.fraction, row.metric, row.run, row.images_seen
