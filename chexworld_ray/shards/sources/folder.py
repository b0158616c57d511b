"""Any folder of images, with or without a table. With a table its rows are the set; without, every file is.

Columns: `path|image|file`; `patient_id|patient`; `source|dataset`; `study_id|study`; `split`; `view`; `mask`
(lungs) and `mask_<organ>`, paths; `boxes` and `landmarks`, JSON lists. Of the others, those whose cells are all
1, 0, -1 or empty are labels, the rest is meta data.
"""

import csv
import gzip
import io
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns, Source, SourceRow
from chexworld_ray.storage import Place, exists, fetch, files_below, place

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
LABEL_CELLS = {"1", "0", "-1", "1.0", "0.0", "-1.0", ""}
NOT_IMAGES = {"csv", "gz", "json", "txt", "md", "parquet", "xml", "html", "pdf", "zip"}


def read_folder(
    folder_url: str, labels: str | None, label_columns: tuple[str, ...] | None, skip_missing: bool
) -> tuple[Source, list[dict[str, str]]]:
    """The rows of a folder, and the rows set aside (image_id, source_path, reason) because their file is missing.

    Raises:
        UserError: no such folder, no images, or a table that can't be read or names missing files.
    """
    folder = place(folder_url)
    if not exists(folder):
        raise UserError(f"{folder_url}: no such folder")
    if not folder.fs.isdir(folder.path):
        raise UserError(f"{folder_url}: not a folder")
    files = {file.path for file in files_below(folder)}
    if labels is None:
        return _every_file(folder, files, folder_url), []
    return _from_table(folder, files, _find_table(folder, labels), label_columns, skip_missing)


def _every_file(folder: Place, files: set[str], folder_url: str) -> Source:
    names = sorted(
        path
        for path in files
        if path.rsplit(".", 1)[-1].lower() not in NOT_IMAGES and "/." not in path[len(folder.path) :]
    )
    if not names:
        raise UserError(f"{folder_url}: no images below this folder")
    return Source(
        [
            SourceRow(image_id=_relative(folder, path), path=Place(folder.fs, path), dataset=folder.name or "images")
            for path in names
        ],
        Columns(),
    )


def _find_table(folder: Place, labels: str) -> Place:
    """The table, looked for below the folder, then from where the user stands."""
    inside = folder / labels
    if "://" not in labels and not os.path.isabs(labels) and exists(inside):
        return inside
    elsewhere = place(labels)
    if exists(elsewhere):
        return elsewhere
    raise UserError(f"--labels {labels}: found neither below {folder.url} nor from the current folder")


def _read_table(table: Place) -> tuple[list[str], list[dict[str, str]]]:
    try:
        data = fetch(table)
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{table.url}: can't be read as a CSV table: {error}") from None
    header = [str(name) for name in reader.fieldnames or []]
    if not rows:
        raise UserError(f"{table.url}: the table has no rows")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{table.url}: line {number} has not as many cells as the header ({len(header)})")
    return header, [{key: value.strip() for key, value in row.items()} for row in rows]


class _Layout:
    """Which column of a table means what."""

    def __init__(
        self,
        table: Place,
        header: list[str],
        rows: list[dict[str, str]],
        label_columns: tuple[str, ...] | None,
    ) -> None:
        self.known: dict[str, str] = {}
        for meaning, names in ALIASES.items():
            found = next((name for name in names if name in header), None)
            if found:
                self.known[meaning] = found
        if "path" not in self.known:
            raise UserError(f"{table.url}: no column named path, image or file; the columns are {', '.join(header)}")
        for name in label_columns or ():
            if name not in header:
                raise UserError(f"--label-columns: {table.url} has no column {name!r}; it has {', '.join(header)}")
        masks = [name for name in header if name == "mask" or name.startswith("mask_")]
        self.masks = {name: "lung" if name == "mask" else name.removeprefix("mask_") for name in masks}
        rest = [name for name in header if name not in {*self.known.values(), *masks}]
        cells = {name: {row[name] for row in rows} for name in rest}
        self.labels = tuple(label_columns or (name for name in rest if cells[name] <= LABEL_CELLS))
        self.meta: tuple[tuple[str, Literal["number", "text"]], ...] = tuple(
            (name, _kind(cells[name])) for name in rest if name not in self.labels
        )

    def columns(self) -> Columns:
        return Columns(self.labels, tuple(self.masks.values()), self.meta)


def _kind(cells: set[str]) -> Literal["number", "text"]:
    try:
        for cell in cells - {""}:
            float(cell)
    except ValueError:
        return "text"
    return "number"


def _from_table(
    folder: Place, files: set[str], table: Place, label_columns: tuple[str, ...] | None, skip_missing: bool
) -> tuple[Source, list[dict[str, str]]]:
    header, cells = _read_table(table)
    layout = _Layout(table, header, cells, label_columns)
    rows: list[SourceRow] = []
    missing: list[dict[str, str]] = []
    first_missing = ""
    seen: dict[str, int] = {}
    for number, cell in enumerate(cells, start=2):
        row = _source_row(folder, table, number, cell, layout)
        if row.image_id in seen:
            raise UserError(
                f"{table.url}: line {number} names {row.image_id!r} again (first on line {seen[row.image_id]})"
            )
        seen[row.image_id] = number
        absent = [file.path for file in (row.path, *row.masks.values()) if file.path not in files and not exists(file)]
        if absent:
            first_missing = first_missing or f"line {number}: {absent[0]}"
            missing.append(
                {"image_id": row.image_id, "source_path": row.path.url, "reason": f"missing file {absent[0]}"}
            )
        else:
            rows.append(row)
    if missing and (not skip_missing or not rows):
        raise UserError(
            f"{table.url}: {len(missing)} of {len(cells)} rows name files that are not there, first {first_missing}; "
            "correct the table, or set such rows aside with --skip-missing"
        )
    return Source(rows, layout.columns()), missing


def _source_row(folder: Place, table: Place, number: int, cell: Mapping[str, str], layout: _Layout) -> SourceRow:
    def known(meaning: str) -> str | None:
        return cell[layout.known[meaning]] or None if meaning in layout.known else None

    path = known("path")
    if path is None:
        raise UserError(f"{table.url}: line {number}: column {layout.known['path']!r} is empty")
    return SourceRow(
        image_id=path,
        path=folder / path,
        dataset=known("dataset") or folder.name or "images",
        patient_id=known("patient_id"),
        study_id=known("study_id"),
        view=known("view"),
        split=known("split"),
        masks={organ: folder / cell[name] for name, organ in layout.masks.items() if cell[name]},
        labels={name: _number(table, number, name, cell[name]) for name in layout.labels if cell[name]},
        meta={
            name: _number(table, number, name, cell[name]) if kind == "number" else cell[name]
            for name, kind in layout.meta
            if cell[name]
        },
        boxes=_json_list(table, number, "boxes", known("boxes")),
        landmarks=_json_list(table, number, "landmarks", known("landmarks")),
    )


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


def _relative(folder: Place, path: str) -> str:
    return path.removeprefix(folder.path.rstrip("/") + "/")
