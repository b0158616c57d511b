"""Which image was seen by whom: an audit trail beside the checkpoints, from which anybody can recount.

One Parquet file for each checkpoint below `<run>/seen`: the rows since the checkpoint before it. Its metadata tell
which checkpoint the attempt (a start of the workers) went on from, so that what the final weights have seen is found by
walking back from the last checkpoint; rows of work that was rolled back are not on the way.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chexworld_ray.errors import UserError
from chexworld_ray.storage import Place, children, fetch, write_bytes

FOLDER = "seen"
SCHEMA = pa.schema(
    [("attempt", pa.string()), ("rank", pa.int32()), ("position", pa.int64()), ("image_id", pa.string())]
)
FIELDS = ("attempt", "stop", "from_attempt", "from_position")


@dataclass(frozen=True)
class Attempt:
    """A start of the workers, and where it went on from; `before` is empty where it began the run."""

    name: str
    before: str
    start: int


class Seen:
    """Rows of one worker, in the order of its steps."""

    def __init__(self, attempt: str, rank: int) -> None:
        self._attempt, self._rank = attempt, rank
        self._positions: list[np.ndarray] = []
        self._images: list[str] = []

    def add(self, positions_B: np.ndarray, image_ids: list[str]) -> None:
        """A share that is about to be trained on; padding (position below 0) is no image."""
        kept = positions_B >= 0
        self._positions.append(positions_B[kept])
        self._images += [name for name, keep in zip(image_ids, kept, strict=True) if keep]

    def take(self) -> pa.Table:
        """Rows since the last call."""
        positions = np.concatenate([np.empty(0, np.int64), *self._positions])
        count = len(positions)
        columns = [[self._attempt] * count, [self._rank] * count, positions, self._images]
        self._positions, self._images = [], []
        return pa.table(columns, schema=SCHEMA)


def write_seen(run: Place, attempt: Attempt, stop: int, rows: pa.Table) -> None:
    """Put the rows that a checkpoint at `stop` adds to those before.

    Raises:
        StorageError: the store can't be reached or refuses.
    """
    values = (attempt.name, str(stop), attempt.before, str(attempt.start))
    table = rows.sort_by("position").replace_schema_metadata(dict(zip(FIELDS, values, strict=True)))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(run / FOLDER / f"{stop:012d}-{attempt.name}.parquet", sink.getvalue().to_pybytes())


def lineage(run: Place, attempt: str, position: int) -> pa.Table:
    """Rows that the weights of the checkpoint at `position` of an attempt have seen, by position.

    Raises:
        UserError: the run was not told to record what it sees.
    """
    files = [pq.read_table(pa.BufferReader(fetch(file))) for file in children(run / FOLDER)]
    told = [{name: (table.schema.metadata or {})[name.encode()].decode() for name in FIELDS} for table in files]
    tables = [SCHEMA.empty_table()]
    while attempt:
        mine = [at for at, entry in enumerate(told) if entry["attempt"] == attempt and int(entry["stop"]) <= position]
        if not mine:
            raise UserError(f"{run.url}: nothing recorded of attempt {attempt}; --record-seen from the first start on")
        tables += [files[at].replace_schema_metadata(None) for at in mine]
        attempt, position = told[mine[0]]["from_attempt"], int(told[mine[0]]["from_position"])
    return pa.concat_tables(tables).sort_by("position")
