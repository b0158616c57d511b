"""Reading Parquet row groups, and the rows of a plan's window in their order."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from chexworld_ray.errors import UserError
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.parquet import Footer, read_columns, read_footer
from chexworld_ray.shards.plan import Plan, Window, share_size
from chexworld_ray.shards.records import IMAGE_SCHEMA
from chexworld_ray.shards.schema import FIXED_FIELDS, OPTIONAL, column_fields
from chexworld_ray.storage import Place, opened, place

STREAM_SCHEMA = pa.schema([("position", pa.int64()), ("image_id", pa.string()), ("image", pa.binary())])
PADDING_POSITION = -1
FIXED_NAMES = {field.name for field in FIXED_FIELDS}


@lru_cache(maxsize=64)
def _footer(url: str) -> Footer:
    with _opened(place(url)) as handle:
        return read_footer(handle, url)


def read_row_group(url: str, index: int, columns: Sequence[str]) -> pa.Table:
    """Some columns of one row group; columns that came with a later release are all null.

    Raises:
        UserError: there is no such file, or it is no shard with these columns.
    """
    with _opened(place(url)) as handle:
        return read_columns(handle, _footer(url), partial(column_fields, columns), OPTIONAL, index)


@contextmanager
def _opened(file: Place) -> Iterator[Any]:
    try:
        handle = opened(file)
    except FileNotFoundError:
        raise UserError(f"{file.url}: no such file, though the manifest names it; chexworld inspect --check") from None
    except OSError as error:
        raise UserError(f"{file.url}: can't be read ({error.strerror or type(error).__name__})") from None
    with handle:
        yield handle


def read_images(manifest: Manifest) -> pa.Table:
    """Who stands in which file of a data set (records.IMAGE_SCHEMA, without pixel sums), read without the pixels."""
    names = [name for name in IMAGE_SCHEMA.names if name in FIXED_NAMES]
    tables = [IMAGE_SCHEMA.empty_table()]
    for record in manifest.files:
        file = manifest.root / record.path
        with _opened(file) as handle:
            table = read_columns(handle, read_footer(handle, file.url), partial(column_fields, names))
        full = {name: table[name] if name in names else pa.nulls(table.num_rows) for name in IMAGE_SCHEMA.names}
        full["file"] = pa.array([record.path] * table.num_rows, pa.string())
        tables.append(pa.table(full).cast(IMAGE_SCHEMA))
    return pa.concat_tables(tables)


def read_window(plan: Plan, window: Window, start: int, stop: int, global_batch: int, padding: int) -> pa.Table:
    """Rows of a window at positions of [start, stop), in plan order, with STREAM_SCHEMA.

    After the last row of each global batch stand `padding` rows without image at PADDING_POSITION, so
    that every worker's share has as many rows as every other's.
    """
    low, high = max(start, window.start), min(stop, window.start + window.rows)
    tables = [
        read_row_group(plan.groups[group].url, plan.groups[group].index, ("image_id", "image"))
        for group in window.groups
    ]
    whole = pa.concat_tables(tables)
    if whole.num_rows != window.rows:
        names = sorted({plan.groups[group].url for group in window.groups})
        raise UserError(f"{names[0]}: {whole.num_rows} rows in a window of {window.rows}; chexworld inspect --check")
    rows = whole.combine_chunks().take(plan.window_order(window)[low - window.start : high - window.start])
    positions = np.arange(low, high)
    table = pa.table([pa.array(positions), rows["image_id"], rows["image"]], schema=STREAM_SCHEMA)
    return _padded(table, low, high, global_batch, padding)


def empty_window(window: Window, start: int, stop: int, global_batch: int, padding: int) -> pa.Table:
    """What `read_window` gives, without ids and images: for a window that can't be read."""
    low, high = max(start, window.start), min(stop, window.start + window.rows)
    nothing = [np.arange(low, high), [""] * (high - low), [b""] * (high - low)]
    return _padded(pa.table(nothing, schema=STREAM_SCHEMA), low, high, global_batch, padding)


def _padded(table: pa.Table, low: int, high: int, global_batch: int, padding: int) -> pa.Table:
    """Rows at positions [low, high), with those without image after each global batch."""
    if not padding:
        return table
    empty = pa.table([[PADDING_POSITION] * padding, [""] * padding, [b""] * padding], schema=STREAM_SCHEMA)
    pieces: list[pa.Table] = []
    for batch_start, batch_stop in _batches(low, high, global_batch):
        pieces.append(table.slice(batch_start - low, batch_stop - batch_start))
        if batch_stop % global_batch == 0:
            pieces.append(empty)
    return pa.concat_tables(pieces)


def _batches(low: int, high: int, size: int) -> Iterator[tuple[int, int]]:
    while low < high:
        stop = min(high, (low // size + 1) * size)
        yield low, stop
        low = stop


def expected_positions(start: int, global_batch: int, workers: int, rank: int, step: int) -> np.ndarray:
    """Positions that a rank must get at local step `step` of a stream from `start`; padding is PADDING_POSITION."""
    share = share_size(global_batch, workers)
    offsets = rank * share + np.arange(share)
    positions = start + step * global_batch + offsets
    return np.where(offsets < global_batch, positions, PADDING_POSITION)
