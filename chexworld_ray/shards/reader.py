"""Reading Parquet row groups, and the rows of a plan's window in their order."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chexworld_ray.shards.plan import Plan, Window, share_size
from chexworld_ray.storage import place

STREAM_SCHEMA = pa.schema([("position", pa.int64()), ("image_id", pa.string()), ("image", pa.binary())])
PADDING_POSITION = -1


@lru_cache(maxsize=64)
def _footer(url: str) -> pq.FileMetaData:
    file = place(url)
    with file.fs.open(file.path, "rb") as handle:
        return pq.ParquetFile(handle).metadata


def read_row_group(url: str, index: int, columns: Sequence[str]) -> pa.Table:
    """Some columns of one row group."""
    file = place(url)
    with file.fs.open(file.path, "rb") as handle:
        return pq.ParquetFile(handle, metadata=_footer(url), pre_buffer=True).read_row_group(
            index, columns=list(columns)
        )


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
    rows = (
        pa.concat_tables(tables)
        .combine_chunks()
        .take(plan.window_order(window)[low - window.start : high - window.start])
    )
    positions = np.arange(low, high)
    table = pa.table([pa.array(positions), rows["image_id"], rows["image"]], schema=STREAM_SCHEMA)
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
