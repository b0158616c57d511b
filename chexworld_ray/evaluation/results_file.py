"""results.parquet: rows of results, kept whole, of several writers each in its turn."""

from collections.abc import Sequence
from dataclasses import asdict, fields

import pyarrow as pa

from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import ResultRow, merge
from chexworld_ray.shards.lock import RESULTS, in_turn
from chexworld_ray.shards.parquet import read_table, write_table
from chexworld_ray.storage import Place, exists

NAME = "results.parquet"


def add_results(out: Place, rows: Sequence[ResultRow]) -> None:
    """Put rows into results.parquet, in the place of those that they replace; of several writers each in its turn.

    Raises:
        UserError: another version wrote it, or others are at it for minutes.
    """
    with in_turn(out, RESULTS):
        write_results(out, merge(read_results(out), rows))


def write_results(out: Place, rows: Sequence[ResultRow]) -> None:
    """Write results.parquet, whole."""
    write_table(out / NAME, pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA))


def read_results(out: Place) -> list[ResultRow]:
    """Rows of results.parquet; empty where there is none.

    Raises:
        UserError: it is damaged, or another version wrote it.
    """
    file = out / NAME
    if not exists(file):
        return []

    def form(stored: pa.Schema) -> pa.Schema:
        if stored.names != _SCHEMA.names:
            raise UserError(f"{file.url}: written by another version; move it away and evaluate again")
        return _SCHEMA

    rows = [ResultRow(**row) for row in read_table(file, form).to_pylist()]
    for row in rows:
        if "/" not in row.task:
            raise UserError(f"{file.url}: task {row.task!r} is not TASK/LABEL; move it away and evaluate again")
    return rows


_TEXT = ("encoder", "task", "protocol", "metric", "run")
_REAL = ("fraction", "value", "low", "high", "p_holm")
_MAY_BE_NONE = ("seed", "draw", "p_holm")
_SCHEMA = pa.schema(
    [
        pa.field(
            field.name,
            pa.string() if field.name in _TEXT else pa.float64() if field.name in _REAL else pa.int64(),
            nullable=field.name in _MAY_BE_NONE,
        )
        for field in fields(ResultRow)
    ]
)
