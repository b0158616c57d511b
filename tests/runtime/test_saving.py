"""Checkpoints while a storage fails, and starts that wait for one. No Ray cluster: its side is a stand-in."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import s3fs
from pyarrow.fs import LocalFileSystem
from ray.train import Checkpoint, CheckpointUploadMode

from chexworld_ray.benchmarks.object_store import Answer, environment, proxy, s3_server
from chexworld_ray.runtime import patience
from chexworld_ray.runtime.job import Job
from chexworld_ray.training.checkpoint_files import folder_name
from chexworld_ray.training.seen import Attempt

ATTEMPT = Attempt("abcdef123456", "", 0)
FIRST = folder_name(60)


class Group:
    """What a worker sees of Ray Train: `report` calls the function that writes in a thread, one after the other."""

    def __init__(self, url: str, workers: int) -> None:
        self.url, self.workers = url, workers
        self.reports: list[str | None] = []
        """Folder name of each, None where it came without a checkpoint."""
        self.uploads: list[Future[Checkpoint]] = []
        self.thread = ThreadPoolExecutor(1)

    def get_world_size(self) -> int:
        return self.workers

    def get_storage(self) -> SimpleNamespace:
        return SimpleNamespace(experiment_fs_path=self.url, storage_filesystem=LocalFileSystem())

    def report(
        self,
        metrics: dict[str, Any],
        checkpoint: Checkpoint | None = None,
        checkpoint_dir_name: str | None = None,
        checkpoint_upload_mode: CheckpointUploadMode = CheckpointUploadMode.SYNC,
        delete_local_checkpoint_after_upload: bool | None = None,
        checkpoint_upload_fn: Callable[[Checkpoint, str], Checkpoint] | None = None,
    ) -> None:
        assert checkpoint_upload_mode == CheckpointUploadMode.ASYNC
        self.reports.append(checkpoint_dir_name)
        if checkpoint is None:
            return
        assert checkpoint_dir_name is not None
        assert checkpoint_upload_fn is not None
        assert not delete_local_checkpoint_after_upload
        self.uploads.append(self.thread.submit(checkpoint_upload_fn, checkpoint, checkpoint_dir_name))

    def listed(self) -> list[str]:
        """Names that Ray would take into its list of checkpoints; raises what a writer raised."""
        return [Path(upload.result().path).name for upload in self.uploads]


@pytest.fixture
def group(job: Job, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    group = Group(job.run_url, 1)
    monkeypatch.setattr(ray.train, "report", group.report)
    monkeypatch.setattr(ray.train, "get_context", lambda: group)
    yield group
    group.thread.shutdown()


class Pauses:
    """In place of the clock: a pause is noted, does `then` with its number, and takes no time."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.then: Callable[[int], object] = lambda _: None

    def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.then(len(self.taken))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    pauses = Pauses()
    monkeypatch.setattr(patience, "sleep", pauses.sleep)
    monkeypatch.setattr(patience, "monotonic", lambda: sum(pauses.taken))
    return pauses


class Obstacle:
    """A file in the place of the first checkpoint's folder: its writer fails, and pauses until `remove`."""

    def __init__(self, file: Path, pauses: Pauses) -> None:
        self.file, self.removed = file, threading.Event()
        file.parent.mkdir(exist_ok=True)
        file.touch()
        pauses.then = lambda _: self.removed.wait()

    def remove(self) -> None:
        if not self.removed.is_set():
            self.file.unlink()
            self.removed.set()


@pytest.fixture
def obstacle(job: Job, group: Group, pauses: Pauses) -> Iterator[Obstacle]:
    obstacle = Obstacle(Path(job.run_url) / FIRST, pauses)
    yield obstacle
    obstacle.remove()


class Weather:
    """From the first PUT of `breaks_at` on the store is `away`, until that is set to False."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.breaks_at, self.away = answer, "", False

    def __call__(self, _number: int, method: str, path: str) -> Answer | None:
        if method == "PUT" and self.breaks_at and self.breaks_at in path:
            self.breaks_at, self.away = "", True
        return self.answer if self.away else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder) as port:
        yield port, folder


class Store(Weather):
    """A bucket of its own behind the weather."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Answer(503, "ServiceUnavailable"))
        self.folder, self.url = folder / "run", f"s3://{folder.name}/run"
        self.requests: list[str] = []


@pytest.fixture
def store(server: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The clients of this process do not try again by themselves, which takes real time."""
    port, folder = server
    store = Store(folder / tmp_path.name.replace("_", "-"))
    store.folder.parent.mkdir()
    monkeypatch.setitem(
        __import__("chexworld_ray.storage").storage._S3_OPTIONS["config_kwargs"], "retries", {"total_max_attempts": 1}
    )
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with proxy(port, store) as before:
        store.requests = before.seen
        for name, value in environment(before.port).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield store
    s3fs.S3FileSystem.clear_instance_cache()
