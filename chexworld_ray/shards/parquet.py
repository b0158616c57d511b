"""A whole Parquet file to and from storage."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from chexworld_ray.storage import Place, fetch, write_bytes


def write_table(file: Place, table: pa.Table) -> None:
    """Write a table, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_bytes(file, buffer.getvalue())


def read_table(file: Place) -> pa.Table:
    """Read a table."""
    return pq.read_table(io.BytesIO(fetch(file)))
