"""What the cells of a user's column say: a label, numbers or text, and what the user is told of that.

Cells come stripped of blanks, each different one with the number of rows that hold it. What is told never quotes a cell
but words for nothing, yes and no.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import pyarrow as pa

from chexworld_ray.shards.schema import MANY_LABELS
from chexworld_ray.shards.source import shown
from chexworld_ray.shards.words import PAIRS, names_nobody, says_nothing, value_of_label, word_of_label

Cells = Mapping[str, int]
BATCH = 10_000  # cells that are looked at together
SHOWN = 3  # different words of a column that are told


def cells_of(table: pa.Table, name: str, fit: Callable[[str], bool] | None = None) -> dict[str, int]:
    """The different cells of a column, and how many rows hold each; of ids, boxes and masks, whose rows have a cell of
    their own each, only those that `fit`.
    """
    counts: dict[str, int] = {}
    for cell, rows in counted(table, name):
        if fit is None or fit(cell):
            counts[cell] = counts.get(cell, 0) + rows
    return counts


def counted(table: pa.Table, name: str) -> Iterator[tuple[str, int]]:
    """Cells with their rows, few in memory at a time; a cell comes again where blanks around it differ."""
    found = table[name].value_counts()
    for start in range(0, len(found), BATCH):
        for one in found.slice(start, BATCH).to_pylist():
            yield one["values"].strip(), one["counts"]


def label_values(cells: Iterable[str]) -> dict[str, float]:
    """The values of a label's cells that are 1, 0, -1 or a word for these."""
    return {cell: value for cell in cells if (value := value_of_label(cell)) is not None}


def kind_of_cells(cells: Iterable[str]) -> Literal["number", "text"]:
    """Whether all that say something are numbers."""
    try:
        for cell in cells:
            float("0" if says_nothing(cell) else cell)
    except ValueError:
        return "text"
    return "number"


def why_no_label(cells: Cells) -> str | None:
    """Why a column is no label; None where it is one, for every cell is 1, 0, -1, a word for these, or nothing."""
    odd = {cell: rows for cell, rows in cells.items() if _is_odd(cell)}
    if not odd:
        alone = sorted(_lonely_letters(cells))
        return f"{alone[0].upper()} alone may mean something else than yes or no" if alone else None
    filled = sum(rows for cell, rows in cells.items() if not says_nothing(cell))
    what = "numbers" if kind_of_cells(odd) == "number" else "words or numbers"
    return f"{sum(odd.values())} of {filled} cells hold other {what}"


def nearly_label(cells: Cells) -> bool:
    """Whether more than half of the cells that say something are 1, 0, -1 or a word for these."""
    filled = {cell: rows for cell, rows in cells.items() if not says_nothing(cell)}
    letters = _lonely_letters(cells) if any(map(_is_odd, filled)) else set()  # F beside M is no half of a label
    fit = sum(rows for cell, rows in filled.items() if not _is_odd(cell) and cell.casefold() not in letters)
    return 2 * fit > sum(filled.values())


def _is_odd(cell: str) -> bool:
    """Whether a cell says something that no label says."""
    return not says_nothing(cell) and value_of_label(cell) is None


def _lonely_letters(cells: Iterable[str]) -> set[str]:
    """Letters for yes or no without the other of their pair."""
    words = {cell.casefold() for cell in cells}
    return {letter for pair in PAIRS for letter in words & {*pair} if not words >= {*pair}}


def told_empty(columns: Mapping[str, Cells], patient: str | None) -> list[str]:
    """A line on the cells that are read as empty though something stands there; none where there are none."""
    told: dict[str, str] = {}
    for name, cells in columns.items():
        nothing = names_nobody if name == patient else says_nothing
        words = {cell: rows for cell, rows in cells.items() if cell and nothing(cell)}
        often = sorted(words, key=lambda cell: (-words[cell], cell))
        told[name] = ", ".join([f"{words[cell]} {cell}" for cell in often[:SHOWN]] + ["…"] * (len(often) > SHOWN))
    return _line("read as empty", told)


def told_words(labels: Mapping[str, Cells]) -> list[str]:
    """A line on the words of labels that are read as 1, 0 and -1; none where there are none."""
    told: dict[str, str] = {}
    for name, cells in labels.items():
        values = {cell: value for cell in sorted(cells) if (value := word_of_label(cell)) is not None}
        told[name] = ", ".join(f"{cell} is {value:g}" for cell, value in values.items())
    return _line("words read as labels", told)


def told_no_labels(table: pa.Table, meta: Mapping[str, Cells], labels: tuple[str, ...], named: bool) -> list[str]:
    """A line on each column that is nearly a label, and why it is none. `named`: the user has named the `labels`."""
    return [
        f"{shown(name)} is no label: {_why(table, name, cells, labels, named)}"
        for name, cells in meta.items()
        if nearly_label(cells)
    ]


def _why(table: pa.Table, name: str, cells: Cells, labels: tuple[str, ...], named: bool) -> str:
    if named:
        return "--label-columns does not name it"
    row = _first_odd_row(table, name)
    where = "" if row is None else f", first in row {row}"
    # the option names all labels that there are
    all_labels = (
        shlex.quote(",".join([*labels, name])) if len(labels) < MANY_LABELS else f"with all {len(labels)} labels and it"
    )
    return f"{why_no_label(cells)}{where}; correct that, or set these images aside: --label-columns {all_labels}"


def _line(what: str, told: Mapping[str, str]) -> list[str]:
    said = [f"{shown(name)} ({words})" for name, words in told.items() if words]
    return [f"{what}: {', '.join(said)}"] if said else []


def _first_odd_row(table: pa.Table, name: str) -> int | None:
    """The first row, from 1, whose cell is no label's; None where all are."""
    cells = (cell.strip() for chunk in table[name].chunks for cell in chunk.to_pylist())
    return next((row for row, cell in enumerate(cells, start=1) if _is_odd(cell)), None)
