"""Any folder of images, with or without a table. With a table its rows are the set; without, every file is.

Release, licence, citation: the user's own. Columns: `path|image|file`; `patient_id|patient`; `source|dataset`;
`study_id|study`; `split`; `view`; `mask` (lungs) and `mask_<organ>`, paths; `boxes` and `landmarks`, JSON lists. Of the
others, those whose cells are all 1, 0, -1 or empty are labels, the rest is meta data. Without a table, files named like
masks (in a folder `masks`, or `…_mask.png`) and files of other kinds (text, tables, archives) are counted, not read.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns, Meta
from chexworld_ray.shards.source import MaskSource, Source, SourceRow, printable
from chexworld_ray.shards.sources.listing import Listing, collect, kind_of
from chexworld_ray.shards.sources.tables import cells, read_table
from chexworld_ray.storage import Place, exists, place

ALIASES = {
    "path": ("path", "image", "file"),
    "patient_id": ("patient_id", "patient"),
    "dataset": ("source", "dataset"),
    "study_id": ("study_id", "study"),
    "split": ("split",),
    "view": ("view",),
    "boxes": ("boxes",),
    "landmarks": ("landmarks",),
}
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val"} | {
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT = re.compile(r"[\w-]{1,40}")
LABEL_CELLS = {"1", "0", "-1", "1.0", "0.0", "-1.0", ""}


def read_folder(
    listing: Listing, labels: str | None, label_columns: tuple[str, ...] | None, skip_missing: bool
) -> Source:
    """The rows of a folder.

    Raises:
        UserError: no images, or a table that can't be read or names missing files.
    """
    if labels is None:
        dataset = listing.root.name or "images"
        names = sorted(path for path in listing.paths if kind_of(path) is None)
        rows = (SourceRow(image_id=printable(path), path=path, dataset=dataset) for path in names)
        return collect(listing, rows, Columns(), skip_missing, listing.root.url)
    file = _find_table(listing.root, labels)
    table = read_table(file)
    layout = _Layout(file, table, label_columns)
    return collect(listing, _rows(listing.root, file, table, layout), layout.columns(), skip_missing, file.url)


def _find_table(folder: Place, labels: str) -> Place:
    """The table, looked for below the folder, then from where the user stands."""
    inside = folder / labels
    if "://" not in labels and not os.path.isabs(labels) and exists(inside):
        return inside
    elsewhere = place(labels)
    if exists(elsewhere):
        return elsewhere
    raise UserError(f"--labels {labels}: found neither below {folder.url} nor from the current folder")


class _Layout:
    """Which column of a table means what."""

    def __init__(self, file: Place, table: pa.Table, label_columns: tuple[str, ...] | None) -> None:
        header = [name for name in table.column_names if not name.startswith("#")]
        self.known: dict[str, str] = {}
        for meaning, names in ALIASES.items():
            found = next((name for name in names if name in header), None)
            if found:
                self.known[meaning] = found
        if "path" not in self.known:
            raise UserError(f"{file.url}: no column named path, image or file; the columns are {', '.join(header)}")
        for name in label_columns or ():
            if name not in header:
                raise UserError(f"--label-columns: {file.url} has no column {name!r}; it has {', '.join(header)}")
        masks = [name for name in header if name == "mask" or name.startswith("mask_")]
        self.masks = {name: "lung" if name == "mask" else name.removeprefix("mask_") for name in masks}
        rest = [name for name in header if name not in {*self.known.values(), *masks}]
        found_cells = {name: {cell.strip() for cell in table[name].unique().to_pylist()} for name in rest}
        self.labels = tuple(label_columns or (name for name in rest if found_cells[name] <= LABEL_CELLS))
        self.meta: Meta = tuple((name, _kind(found_cells[name])) for name in rest if name not in self.labels)

    def columns(self) -> Columns:
        return Columns(self.labels, tuple(self.masks.values()), self.meta)


def _kind(found: set[str]) -> Literal["number", "text"]:
    try:
        for cell in found - {""}:
            float(cell)
    except ValueError:
        return "text"
    return "number"


def _rows(root: Place, file: Place, table: pa.Table, layout: _Layout) -> Iterator[SourceRow]:
    for line, cell in enumerate(cells(table), start=2):
        yield _source_row(root, file, line, cell, layout)


def _source_row(root: Place, table: Place, number: int, cell: Mapping[str, str], layout: _Layout) -> SourceRow:
    def known(meaning: str) -> str | None:
        return cell[layout.known[meaning]] or None if meaning in layout.known else None

    path = known("path")
    if path is None:
        raise UserError(f"{table.url}: line {number}: column {layout.known['path']!r} is empty")
    path = path.removeprefix("./").removeprefix(root.path.rstrip("/") + "/")
    return SourceRow(
        image_id=path,
        path=path,
        dataset=known("dataset") or root.name or "images",
        patient_id=known("patient_id"),
        study_id=known("study_id"),
        view=known("view"),
        split=_split(table, number, known("split")),
        masks={organ: MaskSource("files", (cell[name],)) for name, organ in layout.masks.items() if cell[name]},
        labels={name: _number(table, number, name, cell[name]) for name in layout.labels if cell[name]},
        meta={
            name: _number(table, number, name, cell[name]) if kind == "number" else cell[name]
            for name, kind in layout.meta
            if cell[name]
        },
        boxes=_json_list(table, number, "boxes", known("boxes")),
        landmarks=_json_list(table, number, "landmarks", known("landmarks")),
    )


def _split(table: Place, number: int, text: str | None) -> str | None:
    """train, val, test, or a word of the user's own."""
    if text is None:
        return None
    if not _SPLIT.fullmatch(text):
        raise UserError(f"{table.url}: line {number}: split {text!r} is not a word of letters, digits, - and _")
    return SPLIT_WORDS.get(text.lower(), text)


def _number(table: Place, number: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{table.url}: line {number}: column {name!r} holds {text!r}, not a number") from None


def _json_list(table: Place, number: int, name: str, text: str | None) -> list[Any]:
    try:
        value = json.loads(text) if text else []
    except ValueError as error:
        raise UserError(f"{table.url}: line {number}: column {name!r} is not a JSON list: {error}") from None
    if not isinstance(value, list):
        raise UserError(f"{table.url}: line {number}: column {name!r} is not a JSON list")
    return value
