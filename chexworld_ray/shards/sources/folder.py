"""Any folder of images, with or without a table. With a table its rows are the set; without, every file is.

Release, licence, citation: the user's own. Columns: `path|image|file`; `patient_id|patient`; `source|dataset`;
`study_id|study`; `split`; `view`; `mask` (lungs) and `mask_<organ>`, paths; `boxes` and `landmarks`, JSON lists. Of the
others, those whose cells are all 1, 0, -1 (as numbers, or as yes, no, true, false and the like), empty or a word for
that (NaN, NA, None, …: `words.py`) are labels, the rest is meta data; columns that may tell who a patient is are
refused. Words for nothing are also read as empty in the columns above, but `path`, and in numbers; texts stay as they
are. Without a table, files named like masks (in a folder `masks`, or `…_mask.png`) and files of other kinds (text,
tables, archives) are counted, not read.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import pyarrow as pa

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns, Meta
from chexworld_ray.shards.source import MaskSource, SetAside, Source, SourceRow, named_like_dicom, printable
from chexworld_ray.shards.sources.cells import BOX_KEYS, LANDMARK_KEYS, BadCell, cell_number, json_list
from chexworld_ray.shards.sources.columns import (
    cells_of,
    counted,
    kind_of_cells,
    label_values,
    nearly_label,
    told_empty,
    told_no_labels,
    told_words,
    why_no_label,
)
from chexworld_ray.shards.sources.listing import BAD_CELL, Listing, collect, kind_of
from chexworld_ray.shards.sources.private import check_columns
from chexworld_ray.shards.sources.tables import UNNAMED, cells, read_table
from chexworld_ray.shards.words import names_nobody, says_nothing
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
STORED_AS_TOLD = ("patient_id", "study_id", "dataset")
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val"} | {
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT = re.compile(r"[\w-]{1,40}")


def read_folder(
    listing: Listing,
    labels: str | None,
    label_columns: tuple[str, ...] | None,
    skip_missing: bool,
    keep_columns: tuple[str, ...] = (),
) -> Source:
    """The rows of a folder. `keep_columns` may be stored, whatever they look like.

    Raises:
        UserError: no images, or a table that can't be read, names missing files or has columns that tell who a patient
            is.
    """
    if labels is None:
        dataset = listing.root.name or "images"
        names = sorted(path for path in listing.paths if kind_of(path) is None)
        among = any(named_like_dicom(name) for name in names)
        rows = (SourceRow(image_id=printable(path), path=path, dataset=dataset, among_dicom=among) for path in names)
        return collect(listing, rows, Columns(), skip_missing, listing.root.url)
    file = _find_table(listing.root, labels)
    table = read_table(file)
    layout = _Layout(file, table, label_columns, keep_columns)
    source = collect(listing, _rows(listing.root, file, table, layout), layout.columns(), skip_missing, file.url)
    return replace(source, origin=layout.origin(), told=layout.told)


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

    def __init__(
        self, file: Place, table: pa.Table, label_columns: tuple[str, ...] | None, keep: tuple[str, ...]
    ) -> None:
        header = [name for name in table.column_names if not UNNAMED.fullmatch(name)]
        unnamed = len(table.column_names) - len(header)
        self.known: dict[str, str] = {}
        for meaning, names in ALIASES.items():
            found = next((name for name in names if name in header), None)
            if found:
                self.known[meaning] = found
        if "path" not in self.known:
            raise UserError(f"{file.url}: no column named path, image or file; the columns are {', '.join(header)}")
        for option, columns in (("--label-columns", label_columns or ()), ("--keep-columns", keep)):
            for name in columns:
                if name not in header:
                    raise UserError(f"{option}: {file.url} has no column {name!r}; it has {', '.join(header)}")
        masks = [name for name in header if name == "mask" or name.startswith("mask_")]
        self.masks = {name: "lung" if name == "mask" else name.removeprefix("mask_") for name in masks}
        rest = [name for name in header if name not in {*self.known.values(), *masks}]
        self.labels: tuple[str, ...] = ()
        self.values: dict[str, dict[str, float]] = {}
        few: dict[str, Mapping[str, int]] = {}  # of each column the few cells that are told
        meta: list[tuple[str, Literal["number", "text"]]] = []
        check_columns(file.url, self._look_at(table, rest, label_columns, few, meta), keep)
        self.meta: Meta = tuple(meta)
        self.labels = label_columns if label_columns is not None else self.labels
        for name in header:
            nothing = names_nobody if name == self.known.get("patient_id") else says_nothing
            if name not in few and name != self.known["path"]:
                few[name] = cells_of(table, name, nothing)
        self.among_dicom = any(named_like_dicom(path) for path, _ in counted(table, self.known["path"]))
        texts = {name for name, kind in self.meta if kind == "text"}
        emptied = {name: of for name, of in few.items() if name not in texts}
        self.told = (
            *told_empty(emptied, self.known.get("patient_id")),
            *told_words({name: few[name] for name in self.labels}),
            *told_no_labels(table, {name: few[name] for name, _ in self.meta}, self.labels, label_columns is not None),
            *([f"not kept: columns without a name {unnamed}"] if unnamed else []),
        )

    def _look_at(
        self,
        table: pa.Table,
        rest: list[str],
        named: tuple[str, ...] | None,
        found: dict[str, Mapping[str, int]],
        meta: list[tuple[str, Literal["number", "text"]]],
    ) -> Iterator[tuple[str, Collection[str], bool]]:
        """What each column is, one after the other: the different cells of all of them are more than fits memory.
        Yields what `check_columns` looks at; puts cells that are told into `found`, and what is no label into `meta`.
        """
        for name in dict.fromkeys((*rest, *(named or ()))):
            cells = cells_of(table, name)
            few = {cell: rows for cell, rows in cells.items() if says_nothing(cell)}
            if name in named if named is not None else why_no_label(cells) is None:
                self.labels += (name,)
                self.values[name] = label_values(cells)
                found[name] = few | {cell: cells[cell] for cell in self.values[name]}
                continue
            meta.append((name, kind_of_cells(cells)))
            found[name] = cells if nearly_label(cells) else few
            yield name, cells.keys(), True
        for meaning in STORED_AS_TOLD:
            if meaning in self.known:
                yield self.known[meaning], cells_of(table, self.known[meaning]).keys(), False

    def columns(self) -> Columns:
        return Columns(self.labels, tuple(self.masks.values()), self.meta)

    def origin(self) -> dict[str, str]:
        """Column of the shards → column of the table."""
        known = {"image_id" if meaning == "path" else meaning: name for meaning, name in self.known.items()}
        return known | {f"mask_{organ}": name for name, organ in self.masks.items()}


def _rows(root: Place, file: Place, table: pa.Table, layout: _Layout) -> Iterator[SourceRow | SetAside]:
    for line, cell in enumerate(cells(table), start=2):
        path = cell[layout.known["path"]].removeprefix("./").removeprefix(root.path.rstrip("/") + "/")
        if not path:
            raise UserError(f"{file.url}: line {line}: column {layout.known['path']!r} is empty")
        split = _split(file, line, cell[layout.known["split"]] if "split" in layout.known else "")
        try:
            yield _source_row(path, split, root, cell, layout)
        except BadCell as bad:
            yield SetAside(path, BAD_CELL, str(bad), layout.among_dicom)


def _source_row(path: str, split: str | None, root: Place, cell: Mapping[str, str], layout: _Layout) -> SourceRow:
    def known(meaning: str) -> str | None:
        text = cell[layout.known[meaning]] if meaning in layout.known else ""
        nothing = names_nobody(text) if meaning == "patient_id" else says_nothing(text)
        return None if nothing else text

    return SourceRow(
        image_id=path,
        path=path,
        dataset=known("dataset") or root.name or "images",
        patient_id=known("patient_id"),
        study_id=known("study_id"),
        view=known("view"),
        split=split,
        masks={
            organ: MaskSource("files", (cell[name],))
            for name, organ in layout.masks.items()
            if not says_nothing(cell[name])
        },
        labels=_labels(cell, layout.values),
        meta=_meta(cell, layout.meta),
        boxes=json_list("boxes", known("boxes"), "label", BOX_KEYS),
        landmarks=json_list("landmarks", known("landmarks"), "name", LANDMARK_KEYS),
        among_dicom=layout.among_dicom,
    )


def _labels(cell: Mapping[str, str], columns: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Cells of labels; `columns` has the values of their usual cells, for a million rows are looked up faster."""
    labels: dict[str, float] = {}
    for name, values in columns.items():
        text = cell[name]
        if text in values:
            labels[name] = values[text]
        elif not says_nothing(text):
            labels[name] = cell_number(name, text)
    return labels


def _meta(cell: Mapping[str, str], columns: Meta) -> dict[str, float | str]:
    """Cells of meta data; empty ones, and words for that among numbers, are left out."""
    meta: dict[str, float | str] = {}
    for name, kind in columns:
        text = cell[name]
        if kind == "text" and text:
            meta[name] = text
        elif kind == "number" and not says_nothing(text):
            meta[name] = cell_number(name, text)
    return meta


def _split(table: Place, number: int, text: str) -> str | None:
    """train, val, test, or a word of the user's own.

    Raises:
        UserError: it is no word; says where, but not what stands there.
    """
    if says_nothing(text):
        return None
    if not _SPLIT.fullmatch(text):
        raise UserError(f"{table.url}: line {number}: the split is not a word of at most 40 letters, digits, - and _")
    return SPLIT_WORDS.get(text.lower(), text)
