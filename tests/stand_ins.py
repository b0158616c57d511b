"""What stands in for Ray's worker group and for the clock where one process tries what a worker does."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pyarrow.fs import LocalFileSystem
from ray.train import Checkpoint, CheckpointUploadMode


class Group:
    """Ray Train as a worker sees it: `report` has what writes a checkpoint called in a thread, one after the other."""

    def __init__(self, path: str) -> None:
        self.path, self.workers = path, 1
        self.reports: list[str | None] = []
        """Folder name of each, None where it came without a checkpoint."""
        self.uploads: list[Future[Checkpoint]] = []
        self.thread = ThreadPoolExecutor(1)

    def get_world_size(self) -> int:
        return self.workers

    def get_storage(self) -> SimpleNamespace:
        return SimpleNamespace(experiment_fs_path=self.path, storage_filesystem=LocalFileSystem())

    def report(
        self,
        metrics: dict[str, Any],
        checkpoint: Checkpoint | None = None,
        checkpoint_dir_name: str | None = None,
        checkpoint_upload_mode: CheckpointUploadMode = CheckpointUploadMode.SYNC,
        delete_local_checkpoint_after_upload: bool | None = None,
        checkpoint_upload_fn: Callable[[Checkpoint, str], Checkpoint] | None = None,
    ) -> None:
        assert checkpoint_upload_mode == CheckpointUploadMode.ASYNC, "any other holds the step up"
        self.reports.append(checkpoint_dir_name)
        if checkpoint is None:
            return
        assert checkpoint_dir_name is not None
        assert checkpoint_upload_fn is not None
        assert not delete_local_checkpoint_after_upload, "what is reported is where it stays"
        self.uploads.append(self.thread.submit(checkpoint_upload_fn, checkpoint, checkpoint_dir_name))

    def listed(self) -> list[str]:
        """Names that Ray takes into its list of checkpoints, once they are written; raises what a writer raised."""
        paths = [Path(upload.result().path) for upload in self.uploads]
        assert {path.parent for path in paths} <= {Path(self.path)}, "Ray refuses one outside the run"
        return [path.name for path in paths]


class Pauses:
    """A clock that only pauses move: each is noted, does `then` with its number, and takes no time."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.then: Callable[[int], object] = lambda _: None

    def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.then(len(self.taken))

    def now(self) -> float:
        return sum(self.taken)
