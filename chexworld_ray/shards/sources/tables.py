"""CSV tables as owners write them: gzipped or not, with a byte-order mark, headers with holes, trailing commas."""

import codecs
import csv
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import csv as arrow_csv

from chexworld_ray.errors import UserError
from chexworld_ray.shards.bounds import inflate
from chexworld_ray.shards.sources.listing import Listing
from chexworld_ray.shards.words import says_nothing
from chexworld_ray.storage import Place, fetch, fetch_named

BATCH = 10_000
LINE_END = b"\n"
_COUNTS = re.compile(r".*Expected \d+ columns, got \d+")
UNNAMED = re.compile(r"#\d+")  # the name that a column without one gets
LARGEST = 1 << 30  # bytes of a table, inflated: some ten million rows


def read_table(file: Place) -> pa.Table:
    """A CSV table, every cell a string without surrounding blanks; columns without a name get their number (`#12`).

    Raises:
        UserError: it can't be read, has no rows, or a line has not as many cells as the header.
    """
    try:
        data = fetch(file, LARGEST)
        data = inflate(data, LARGEST, zlib.MAX_WBITS + 16) if data[:2] == b"\x1f\x8b" else data
        _check_text(file, data)
        names, lines = _header(file, data)
        table = arrow_csv.read_csv(
            io.BytesIO(data),
            read_options=arrow_csv.ReadOptions(column_names=names, skip_rows=lines, use_threads=False),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=True
            ),
        )
    except OverflowError:
        raise UserError(f"{file.url}: inflates to more than {LARGEST >> 20} MiB; split the table") from None
    except (zlib.error, pa.ArrowInvalid, csv.Error, UnicodeDecodeError, OSError, EOFError) as error:
        raise UserError(f"{file.url}: can't be read as a CSV table: {_said(error)}") from None
    if not table.num_rows:
        raise UserError(f"{file.url}: the table has no rows")
    return table


def read_text(file: Place) -> str:
    """A list of an owner, without a byte-order mark.

    Raises:
        UserError: it can't be read, or is no UTF-8 text.
    """
    data = fetch_named(file, LARGEST)
    _check_text(file, data)
    return data.decode("utf-8-sig")


def _check_text(file: Place, data: bytes) -> None:
    """Refuse what is no UTF-8 text, without quoting it.

    Raises:
        UserError: names the encoding, or the line.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{file.url}: UTF-16; save it as UTF-8")
    if (at := data.find(b"\0")) >= 0:
        raise UserError(f"{file.url}: line {data.count(LINE_END, 0, at) + 1} holds a NUL byte; save it as UTF-8")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, byte = data.count(LINE_END, 0, error.start) + 1, data[error.start]
        raise UserError(f"{file.url}: line {line} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from None


def _header(file: Place, data: bytes) -> tuple[list[str], int]:
    """Names of the columns, and how many lines they take.

    Raises:
        UserError: two columns have one name.
    """
    lines = (line.decode() for line in io.BytesIO(data.removeprefix(codecs.BOM_UTF8)))
    reader = csv.reader(lines)
    names = [" ".join(name.split()) for name in next(reader, [])]
    for name, count in Counter(names).items():
        if name and count > 1:
            raise UserError(f"{file.url}: {count} columns are named {name!r}; rename or remove all but one")
    return [name or f"#{number}" for number, name in enumerate(names)], reader.line_num


def _said(error: Exception) -> str:
    """Arrow's message, rows counted as a text editor counts lines, without the row that it quotes."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    head, mark, rest = text.partition("Row #")
    number, _, said = rest.partition(":")
    text = f"{head}line {number}:{said}" if mark and number.isdigit() else text
    counted = _COUNTS.match(text)
    return counted[0] if counted else text


def cells(table: pa.Table) -> Iterator[dict[str, str]]:
    """One dictionary a row, a batch of rows in memory at a time."""
    for batch in table.to_batches(max_chunksize=BATCH):
        for row in batch.to_pylist():
            yield {name: value.strip() for name, value in row.items()}


def owner_table(listing: Listing, names: list[str], what: str, columns: list[str]) -> Iterator[dict[str, str]]:
    """Rows of the first of several tables of an owner that is there, with the columns that it must have.

    Raises:
        UserError: no such table, or a column is missing.
    """
    file = listing.root / listing.need(names, what)
    table = read_table(file)
    lacking = [name for name in columns if name not in table.column_names]
    if lacking:
        raise UserError(
            f"{file.url}: no column {', '.join(map(repr, lacking))}; it has {', '.join(table.column_names[:20])}"
        )
    return cells(table)


def number(text: str) -> float | None:
    """The number a cell holds; None for an empty or unreadable one, also where a word such as NaN says so."""
    try:
        return None if says_nothing(text) else float(text)
    except ValueError:
        return None


def label_name(text: str) -> str:
    """An owner's label as a column name: 'Pleural Effusion' → 'pleural_effusion'."""
    return "_".join(text.lower().replace("/", " ").replace("-", " ").split())
