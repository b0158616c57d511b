"""Which image was seen by whom: an audit trail beside the checkpoints, from which anybody can recount.

One Parquet file for each checkpoint below `<run>/seen`: the rows since the checkpoint before it. Its metadata tell
which checkpoint the attempt (a start of the workers) went on from, so that what the final weights have seen is found by
walking back from the last checkpoint; rows of work that was rolled back are not on the way.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from chexworld_ray.errors import UserError
from chexworld_ray.shards.parquet import read_table, tables, write_table
from chexworld_ray.storage import Place

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
    write_table(run / FOLDER / f"{stop:012d}-{attempt.name}.parquet", table)


def lineage(run: Place, attempt: str, position: int) -> pa.Table:
    """Rows that the weights of the checkpoint at `position` of an attempt have seen, by position.

    Raises:
        UserError: the run was not told to record what it sees.
    """
    places = tables(run / FOLDER)
    files = [read_table(place, SCHEMA) for place in places]
    told = [_said(place, table) for place, table in zip(places, files, strict=True)]
    rows = [SCHEMA.empty_table()]
    passed: set[str] = set()
    while attempt:
        if attempt in passed:
            raise UserError(f"{run.url}: attempt {attempt} is told to have gone on from itself; {FOLDER}/ is damaged")
        passed.add(attempt)
        mine = [at for at, entry in enumerate(told) if entry["attempt"] == attempt and int(entry["stop"]) <= position]
        if not mine:
            raise UserError(f"{run.url}: nothing recorded of attempt {attempt}; --record-seen from the first start on")
        rows += [files[at].replace_schema_metadata(None) for at in mine]
        attempt, position = told[mine[0]]["from_attempt"], int(told[mine[0]]["from_position"])
    return pa.concat_tables(rows).sort_by("position")


def _said(file: Place, table: pa.Table) -> dict[str, str]:
    """Which checkpoint a file belongs to, and where its attempt went on from."""
    pairs = table.schema.metadata or {}
    said = {name: pairs.get(name.encode(), b"").decode(errors="replace") for name in FIELDS}
    if not (said["stop"].isdecimal() and said["from_position"].isdecimal()):
        raise UserError(f"{file.url}: does not say which checkpoint it belongs to; it is damaged")
    return said
