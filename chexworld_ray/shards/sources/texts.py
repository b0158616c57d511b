"""Bytes of a table or list → text that is what it claims to be, or one line on what it is and how to save it."""

import codecs
import csv
import io
import re

from chexworld_ray.errors import UserError
from chexworld_ray.shards.formats import NAMED
from chexworld_ray.storage import Place

SAVE = "save it as CSV UTF-8"
_NO_TABLES = {
    "an Excel file, or another zip archive": (*NAMED["zip archive"], b"PK\5\6"),
    "an old Excel file, or another of old Office": NAMED["old Office"],
    "a Parquet file": NAMED["Parquet"],
    "a PDF": NAMED["PDF"],
    "an RTF document": (b"{\\rtf",),
    "a database (SQLite)": (b"SQLite format 3",),
    "a web page, or XML": (b"<?xml", b"<!doctype", b"<html", b"<table"),
    "JSON": (b"[{", b"{"),
}
_PACKED = {
    "bzip2": (b"BZh",),
    "xz": (b"\xfd7zXZ",),
    "Zstandard": (b"\x28\xb5\x2f\xfd",),
    "7-Zip": NAMED["7-Zip archive"],
    "RAR": NAMED["RAR archive"],
}
_LONE_RETURN = re.compile(rb"\r(?!\n)")
_LONGEST = 1 << 30  # bytes of a cell, for Python's parser; what is read at all is bounded before


def table_text(file: Place, data: bytes) -> bytes:
    """The UTF-8 text of a CSV table, all lines ended by a line feed (old programs for Macs end them by a return).

    Raises:
        UserError: it is something else, or a quote is left open, behind which rows would be lost (`_check_quotes`).
    """
    start = data.removeprefix(codecs.BOM_UTF8)[:64].lstrip().lower()
    for what, starts in _NO_TABLES.items():
        if start.startswith(tuple(one.lower() for one in starts)):
            raise UserError(f"{file.url}: {what}, no CSV table; open it, and {SAVE}")
    for what, starts in _PACKED.items():
        if data.startswith(starts):
            raise UserError(f"{file.url}: packed by {what}; unpack it, or pack it by gzip")
    check_text(file, data, SAVE)
    data = _LONE_RETURN.sub(b"\n", data) if b"\r" in data else data
    _check_quotes(file, data)
    return data


def check_text(file: Place, data: bytes, advice: str) -> None:
    """Refuse what is no UTF-8 text, without quoting it.

    Raises:
        UserError: names the encoding, or the line.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{file.url}: UTF-16; {advice}")
    if (at := data.find(b"\0")) >= 0:
        raise UserError(f"{file.url}: line {_line(data, at)} holds a NUL byte; {advice}")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        told = f"line {_line(data, error.start)} is not UTF-8 (byte 0x{data[error.start]:02x})"
        raise UserError(f"{file.url}: {told}; {advice}") from None


def _line(data: bytes, at: int) -> int:
    """Where a byte stands, as a text editor counts lines."""
    before = data[:at]
    return 1 + before.count(b"\n") + len(_LONE_RETURN.findall(before))


def _check_quotes(file: Place, data: bytes) -> None:
    """Refuse a cell whose quote goes on over line ends and is closed nowhere, or in the midst of another cell, or
    behind lines that look like rows. Parsers put all rows up to there into that cell, and say nothing.

    Raises:
        UserError: names the line where it opens.
    """
    if b'"' not in data:
        return
    limit = csv.field_size_limit(_LONGEST)
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""), strict=True)
    begun, columns, end = 1, 0, ""
    try:
        while not end:
            try:
                row = next(reader)
                columns = columns or len(row)
                if reader.line_num > begun and any(_holds_rows(row, at, columns) for at in range(len(row))):
                    end = f"is closed in line {reader.line_num}, behind lines with as many cells as the header"
            except csv.Error as error:
                if "end of data" in str(error):
                    end = "is not closed"
                elif reader.line_num > begun:
                    end = f"is closed in line {reader.line_num}, in the midst of a cell"
            begun = begun if end else reader.line_num + 1
    except StopIteration:
        return
    finally:
        csv.field_size_limit(limit)
    raise UserError(
        f'{file.url}: line {begun}: a quote (") opens there and {end}; close it where its text ends, right before '
        'a comma or the end of the line, or remove it (a quote inside quotes is written twice: "")'
    )


def _holds_rows(row: list[str], at: int, columns: int) -> bool:
    """Whether the lines of a cell, as parts of lines of the file, have as many cells as the header: three or more, or
    two that begin with names of files of one kind. Prose over several lines has commas, but not so regularly.
    """
    first, *inner = row[at].split("\n")
    if not inner:
        return False
    *inner, last = inner
    cells = [at + 1 + first.count(","), *(1 + line.count(",") for line in inner), last.count(",") + len(row) - at]
    begins = row[0] if at else first.partition(",")[0]
    kinds = {_suffix(begins), _suffix(last.partition(",")[0])}
    return {*cells} == {columns} and (bool(inner) or (len(kinds) == 1 and "" not in kinds))


def _suffix(name: str) -> str:
    return name.strip().rpartition(".")[2].lower() if re.search(r"\w\.\w{1,5}$", name.strip()) else ""
