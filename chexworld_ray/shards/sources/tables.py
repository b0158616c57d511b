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
from chexworld_ray.shards.sources.texts import SAVE, check_text, table_text
from chexworld_ray.shards.words import says_nothing
from chexworld_ray.storage import Place, fetch, fetch_named

BATCH = 10_000
_COUNTS = re.compile(r"line (\d+): Expected (\d+) columns, got (\d+)")
_MARKS = {";": "';'", "\t": "tabs", "|": "'|'"}
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
        data = table_text(file, data)
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
    except (zlib.error, pa.ArrowInvalid, csv.Error, OSError, EOFError) as error:
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
    check_text(file, data, "save it as UTF-8")
    return data.decode("utf-8-sig")


def _header(file: Place, data: bytes) -> tuple[list[str], int]:
    """Names of the columns, and how many lines they take, empty ones before them included.

    Raises:
        UserError: nothing follows, two columns have one name, or columns are not separated by commas.
    """
    lines = (line.decode() for line in io.BytesIO(data.removeprefix(codecs.BOM_UTF8)))
    reader = csv.reader(lines)
    found = next((row for row in reader if row), [])
    if not any(line.strip() for line in lines):
        raise UserError(f"{file.url}: the table has no rows")
    if len(found) == 1 and (mark := next((mark for mark in _MARKS if mark in found[0]), None)) is not None:
        raise UserError(f"{file.url}: its columns are separated by {_MARKS[mark]}, not by commas; {SAVE}, with commas")
    names = [" ".join(name.split()) for name in found]
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
    if (counted := _COUNTS.search(text)) is not None:
        line, wanted, got = counted.groups()
        return f"line {line} has {got} cells, the header {wanted}; a cell with a comma in it stands in quotes"
    return "a row is longer than a MiB" if "straddling" in text else text


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
