"""Parquet to and from storage: the only place where a file of this kind is read, for it may be a stranger's.

A field's metadata may name an extension type. Types that some library of this process has registered then run code of
theirs on the file's bytes (Ray Data's unpickles) when the schema is read, or when a value is looked at. So the Arrow
schema that stands in the footer is put aside before pyarrow looks for it, a file that names such types is refused,
and the rest is cast to the columns that its reader expects.
"""

import base64
import binascii
import functools
import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chexworld_ray.errors import UserError
from chexworld_ray.storage import Place, children, fetch_named, write_bytes

MAX_ROWS = 1 << 26
MAX_BYTES = 4 << 30
"""Of one read, as they are in memory; the largest of ours, a row group of tokens, has some hundred megabytes."""
_NAME = 60  # letters of a column's name that a message repeats
_BATCH = 1024  # rows: a value that stands for many in few bytes may fill no more memory than so many of it
_MAGIC = b"PAR1"
_KEY, _PUT_ASIDE = b"ARROW:schema", b"arrow_schema"
_EXTENSION, _RENAMED = b"ARROW:extension:name", b"arrow_extension_name"

Form = Callable[[pa.Schema], pa.Schema]
"""Columns that are wanted, of those that a file has; raises UserError where it is no such file at all."""


def write_table(file: Place, table: pa.Table) -> None:
    """Write a table, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_bytes(file, buffer.getvalue())


def tables(folder: Place) -> list[Place]:
    """The Parquet files right in a folder, by name."""
    return [file for file in children(folder) if file.name.endswith(".parquet")]


@dataclass(frozen=True)
class Footer:
    """What a file says of itself, without the Arrow schema."""

    url: str
    metadata: pq.FileMetaData

    @functools.cached_property
    def groups(self) -> list[int]:
        """Rows of each row group."""
        return [self.metadata.row_group(at).num_rows for at in range(self.metadata.num_row_groups)]


def read_table(file: Place, form: pa.Schema | Form, optional: tuple[str, ...] = ()) -> pa.Table:
    """A whole file as `form` wants it: other columns are left out; those whose name begins with one of `optional` may
    be missing, and are null then. The file's own key-value pairs stand in the schema's metadata.

    Raises:
        UserError: there is no such file, or it is not of that form; file and column are named.
        StorageError: the store can't be reached or refuses.
    """
    return parse_table(fetch_named(file), file.url, form, optional)[0]


def parse_table(
    data: bytes, url: str, form: pa.Schema | Form, optional: tuple[str, ...] = ()
) -> tuple[pa.Table, list[int]]:
    """`read_table` of what has been fetched already, with the rows of each row group."""
    source = io.BytesIO(data)
    footer = read_footer(source, url)
    return read_columns(source, footer, form, optional), footer.groups


def read_footer(source: Any, url: str) -> Footer:
    """The footer of an open file.

    Raises:
        UserError: it is damaged, or names an extension type.
    """
    with _told(url):
        size = source.seek(0, io.SEEK_END)
        source.seek(max(0, size - 8))
        tail = source.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or length > size - 12:
            raise UserError(f"{url}: not a whole Parquet file; it was cut short, or is another kind of file")
        source.seek(size - 8 - length)
        footer = source.read(length).replace(_KEY, _PUT_ASIDE)
        # pyarrow takes a footer for a whole file as long as no column is read
        metadata = pq.ParquetFile(io.BytesIO(_MAGIC + footer + tail)).metadata
        _refuse_extensions((metadata.metadata or {}).get(_PUT_ASIDE, b""), url)
        return Footer(url, metadata)


def _refuse_extensions(stored: bytes, url: str) -> None:
    try:
        schema = base64.b64decode(stored)
    except binascii.Error:
        return
    if _EXTENSION in schema:
        renamed = pa.ipc.read_schema(pa.py_buffer(schema.replace(_EXTENSION, _RENAMED)))
        names = [field.name for field in renamed if any(_RENAMED in (part.metadata or {}) for part in _within(field))]
        raise UserError(
            f"{url}: column {_names(map(repr, names)) or '?'} has an extension type, which can run code; "
            "such files are not read"
        )


def _names(columns: Iterable[str]) -> str:
    """The first columns, for a message: a stranger's names may have no end."""
    return ", ".join(name[:_NAME] for name in islice(columns, 20))


def _within(field: pa.Field) -> list[pa.Field]:
    """A field and all that it is made of."""
    kind = field.type
    parts = [kind.field(at) for at in range(kind.num_fields)] if kind.num_fields else []
    return [field, *(deeper for part in parts for deeper in _within(part))]


def read_columns(
    source: Any, footer: Footer, form: pa.Schema | Form, optional: tuple[str, ...] = (), group: int | None = None
) -> pa.Table:
    """`read_table` of an open file, or of one of its row groups."""
    with _told(footer.url):
        stored = footer.metadata.schema.to_arrow_schema()
        schema: Any = form(stored) if callable(form) else form
        groups = list(range(footer.metadata.num_row_groups)) if group is None else [group]
        if any(at >= footer.metadata.num_row_groups for at in groups):
            raise UserError(f"{footer.url}: no row group {group}; it has {footer.metadata.num_row_groups}")
        there = [name for name in schema.names if stored.names.count(name) == 1]
        _check(schema, stored, there, optional, footer.url)
        _check_size(footer, groups)
        parquet = pq.ParquetFile(source, metadata=footer.metadata, pre_buffer=False)
        found = _read(parquet, groups, there, stored, footer.url)
        rows = sum(footer.groups[at] for at in groups)
        columns = [
            _column(found[field.name], field, footer.url) if field.name in there else pa.nulls(rows, field.type)
            for field in schema
        ]
        pairs = {key: value for key, value in (footer.metadata.metadata or {}).items() if key != _PUT_ASIDE}
        return pa.table(columns, schema=schema.with_metadata(pairs) if pairs else schema)


def _check(schema: pa.Schema, stored: pa.Schema, there: list[str], optional: tuple[str, ...], url: str) -> None:
    for name in set(schema.names) - set(there):
        if name in stored.names:
            raise UserError(f"{url}: column {name[:_NAME]!r} stands there more than once")
        if not name.startswith(optional or ("\0",)):
            raise UserError(f"{url}: no column {name[:_NAME]!r}; it has {_names(stored.names)}")
    for name in there:  # JSON, UUID and the like may be told by Parquet itself
        if any(isinstance(part.type, pa.BaseExtensionType) for part in _within(stored.field(name))):
            raise UserError(f"{url}: column {name[:_NAME]!r} has an extension type; such files are not read")


def _check_size(footer: Footer, groups: Sequence[int]) -> None:
    """By what the file says of whole row groups: what it says of a column, pyarrow can't be asked for, for it ends the
    process where that is damaged.
    """
    size = sum(footer.metadata.row_group(at).total_byte_size for at in groups)
    rows = sum(footer.groups[at] for at in groups)
    if not (0 <= rows <= MAX_ROWS and 0 <= size <= MAX_BYTES):
        raise UserError(
            f"{footer.url}: {rows} rows of {size} bytes; at most {MAX_ROWS} and {MAX_BYTES} are read at once"
        )


def _read(
    parquet: pq.ParquetFile, groups: list[int], names: list[str], stored: pa.Schema, url: str
) -> dict[str, pa.ChunkedArray]:
    """Columns as they are stored. In batches: what few bytes stand for is only known when they are read.

    By this thread alone: threads of Arrow's hold the source for a moment longer than the read takes, and where Python
    ends in that moment they abort the process, which had done its work (apache/arrow issues 34314 and 50482).
    """
    batches, size = [], 0
    for batch in parquet.iter_batches(_BATCH, row_groups=groups, columns=names, use_threads=False) if names else ():
        size += batch.nbytes
        if size > MAX_BYTES:
            raise UserError(f"{url}: more than {MAX_BYTES} bytes in memory, from what says that it is less")
        batches.append(batch)
    return {name: pa.chunked_array([one.column(name) for one in batches], stored.field(name).type) for name in names}


def _column(values: pa.ChunkedArray, field: pa.Field, url: str) -> pa.ChunkedArray:
    """A column in the type that is wanted; every value has been looked at."""
    try:
        values.validate(full=True)
        cast = values if values.type == field.type else values.cast(field.type)
        cast.validate(full=True)
    except (pa.ArrowException, ValueError, TypeError) as error:
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{url}: column {field.name[:_NAME]!r} holds no {field.type}: {said}") from None
    if cast.null_count and not field.nullable:
        raise UserError(f"{url}: column {field.name[:_NAME]!r} has {cast.null_count} empty cells of {len(cast)}")
    return cast


@contextmanager
def _told(url: str) -> Any:
    """Turn what pyarrow says of a file into one line. What its storage says is no matter of the file's, and goes on."""
    try:
        yield
    except UserError:
        raise
    except (pa.ArrowException, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise UserError(f"{url}: can't be read as Parquet ({_first_line(error)})") from None
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:
            raise
        raise UserError(f"{url}: can't be read as Parquet ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
