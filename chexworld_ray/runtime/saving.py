"""Checkpoints of a running worker group: a copy is taken in the step, all else happens beside the next steps."""

import threading
from typing import Any

import pyarrow as pa
import ray.train
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode

from chexworld_ray import storage
from chexworld_ray.runtime.job import Job
from chexworld_ray.runtime.patience import patiently
from chexworld_ray.storage import Place, StorageError
from chexworld_ray.training import checkpoint
from chexworld_ray.training.checkpoint_files import folder_name
from chexworld_ray.training.log import RunLog
from chexworld_ray.training.seen import SCHEMA, Attempt, Seen, write_seen
from chexworld_ray.training.state import TrainState


class Saver:
    """Called with the state at the same positions on every worker; rank 0 writes.

    One checkpoint is written at a time, so that a storage that hangs costs the memory of one copy: what falls due
    meanwhile is left out, with a line. The last one of a run, and one for a spot notice, wait instead.
    """

    def __init__(
        self,
        job: Job,
        attempt: Attempt,
        taken: set[str],
        facts: dict[str, Any],
        log: RunLog | None,
        seen: Seen | None,
    ) -> None:
        """`taken`: names of the checkpoint folders that were there at the start. `log`: rank 0's."""
        self._job, self._attempt, self._taken, self._facts, self._log = job, attempt, taken, facts, log
        self._seen, self._rows = seen, SCHEMA.empty_table()
        self._sharded = job.settings.runtime.sharding == "fsdp"
        self._idle = threading.Event()
        self._idle.set()

    def __call__(self, state: TrainState, *, urgent: bool) -> None:
        """Have a checkpoint of `state` written. A barrier of all ranks."""
        writes = self._log is not None
        self._gather()
        if urgent or state.position >= state.total:
            self._idle.wait()
        busy = not self._idle.is_set()
        copy = None
        if self._sharded or (writes and not busy):
            copy = checkpoint.snapshot(state, self._job.settings.science.model, self._job.pixels, self._facts)
        if not writes or copy is None or busy:
            if busy:
                self._say(f"no checkpoint at {state.position} images seen: the one before is still being written")
            ray.train.report({}, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
            return
        name = folder_name(state.position)
        if name in self._taken:
            name = folder_name(state.position, self._attempt.name[:8])
        self._idle.clear()
        self._report(copy, name)

    def _gather(self) -> None:
        """Rank 0 holds what all have seen since the last checkpoint that was written."""
        if self._seen is None:
            return
        tables: list[Any] = [self._seen.take()]
        if ray.train.get_context().get_world_size() > 1:
            gathered: list[Any] | None = [None] * dist.get_world_size() if self._log is not None else None
            dist.gather_object(tables[0], gathered)
            tables = gathered or []
        self._rows = pa.concat_tables([self._rows, *tables])

    def _report(self, copy: checkpoint.Snapshot, name: str) -> None:
        """Ray calls `write` in its upload thread, and takes the folder into its list when it returns."""
        rows, self._rows = self._rows, SCHEMA.empty_table()
        context: Any = ray.train.get_context().get_storage()
        folder = Checkpoint(f"{context.experiment_fs_path}/{name}", context.storage_filesystem)

        def write(_: Checkpoint, __: str) -> Checkpoint:
            self._write(copy, storage.place(self._job.run_url) / name, rows)
            return folder

        ray.train.report(
            {"images_seen": copy.record["position"]},
            checkpoint=folder,
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=write,
            delete_local_checkpoint_after_upload=False,
        )

    def _write(self, copy: checkpoint.Snapshot, root: Place, rows: pa.Table) -> None:
        """Write until it succeeds: a storage that is away, or a full disk, costs nobody the work of the others."""
        log = self._log
        assert log is not None

        def write() -> None:
            if self._seen is not None:
                write_seen(root.parent, self._attempt, copy.record["position"], rows)
            checkpoint.write(copy, root)
            log.flush()

        def tell(error: StorageError, pause: float) -> None:
            self._say(f"{error}; the checkpoint is written again in {pause:.0f} s, training goes on")

        try:
            patiently(write, tell)
        finally:
            self._idle.set()

    def finish(self) -> None:
        """Wait for the last checkpoint: its thread writes to the log, which must not be closed before."""
        self._idle.wait()

    def _say(self, message: str) -> None:
        self._job.board.push.remote({"message": message})


class Notices:
    """Whether a machine of this run has been given notice since the last look. A barrier of all ranks."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self) -> bool:
        info = ray.train.get_preemption_info()
        if info is None:
            return False
        nodes = set(info.preempted_node_ids)
        new = bool(nodes - self._known)
        self._known |= nodes
        return new
