"""Chunks of an ingest as Ray Data runs them, and what is said where one can't be done."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from chexworld_ray import storage
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.board import new_board
from chexworld_ray.runtime.cluster import causes, rows_told, user_error
from chexworld_ray.shards.identity import Pseudonyms
from chexworld_ray.shards.ingest import Chunk, unsqueeze
from chexworld_ray.shards.records import save_record
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.writer import write_chunk

LITTLE_ROOM = 1 << 20  # bytes
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def what_to_mend(error: BaseException) -> UserError | None:
    """What the user can mend: a UserError, a disk that is full or read-only, a lost process; None for anything else."""
    from ray import exceptions as ray_errors

    if (told := user_error(error)) is not None:
        return told
    lost = (
        ray_errors.ActorDiedError,
        ray_errors.WorkerCrashedError,
        ray_errors.NodeDiedError,
        ray_errors.OutOfDiskError,
    )
    for one in causes(error):
        if isinstance(one, OSError) and one.errno in NO_ROOM:
            where = f"{one.filename}: " if one.filename else ""
            return UserError(f"{where}{one.strerror}; make room, then start again: what is done is kept")
        if isinstance(one, lost):
            of_ray = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
            full = f" (its disk, {of_ray}, is full)" if shutil.disk_usage(of_ray).free < LITTLE_ROOM else ""
            return UserError(f"a process of Ray is lost{full}; start again: what is done is kept")
    return None


def chunk_work(
    source: Source,
    settings: WriteSettings,
    out: storage.Place,
    names: dict[int, str],
    files: dict[int, storage.Place],
    key: Pseudonyms,
) -> Any:
    """What Ray Data runs on a chunk. The key travels from process to process, never through a store or a file."""
    import ray

    board: Any = new_board()
    ray.get(board.publish.remote("key", key))
    root, columns, allowed = source.root, source.columns, source.allowed  # the rows themselves come in chunks

    def work(batch: dict[str, Any]) -> dict[str, list[Any]]:
        index = int(batch["index"][0])
        rows = unsqueeze(batch["chunk"][0])
        place = storage.place(root)
        try:
            pseudonyms: Any = ray.get(board.fetch.remote("key"))
            record = write_chunk(names[index], rows, place, columns, settings, pseudonyms, out, allowed)
            save_record(files[index], record)
        except Exception as error:
            if (told := what_to_mend(error)) is None:
                raise
            return {"index": [index], "told": [str(told)]}
        return {"index": [index], "told": [""]}

    return work


def run_chunks(due: list[Chunk], work: Any) -> Iterator[int]:
    """Indices of chunks as they are finished.

    Raises:
        UserError: a worker met one (the storage refuses), told as if it had happened here.
    """
    import ray.data

    blocks = [
        pa.table({"index": [chunk.index], "chunk": pa.array([chunk.squeeze()], pa.large_binary())}) for chunk in due
    ]
    context = ray.data.DataContext.get_current().copy()
    # of a single map, reservations only keep half the processors idle: there is no other operator to keep them for
    context.op_resource_reservation_enabled = False
    with ray.data.DataContext.current(context):
        rows = ray.data.from_arrow(blocks).map_batches(work, batch_size=None)
    for row in rows_told(rows.iter_rows()):
        yield int(row["index"])
