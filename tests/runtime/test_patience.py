"""A storage that is away for a while, as a worker sees it: a real S3 server behind a proxy that refuses. No Ray."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs
from stand_ins import Group, Pauses
from states import equal, trained, values

from chexworld_ray import storage
from chexworld_ray.benchmarks.object_store import Answer, environment, proxy, s3_server
from chexworld_ray.errors import UserError
from chexworld_ray.runtime import worker
from chexworld_ray.runtime.job import Job
from chexworld_ray.runtime.saving import Saver
from chexworld_ray.storage import StorageError, place
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.checkpoint_files import MANIFEST, damage, folder_name
from chexworld_ray.training.log import RunLog, read_metrics
from chexworld_ray.training.seen import Attempt, Seen, lineage

NAME = folder_name(60)
ATTEMPT = Attempt("abcdef123456", "", 0)


class Store:
    """s3://bucket/run, which lies in `folder`; from the first request that begins as `breaks_at` on it is away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answer, self.breaks_at, self.away = Answer(503, "ServiceUnavailable"), "nothing", False
        self.requests: list[str] = []

    def decide(self, _number: int, method: str, path: str) -> Answer | None:
        self.away = self.away or f"{method} {path}".startswith(self.breaks_at)
        return self.answer if self.away else None

    def back(self) -> None:
        self.breaks_at, self.away = "nothing", False


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store(tmp_path / "s3" / "bucket" / "run")
    store.folder.parent.mkdir(parents=True)
    # the client's own attempts take real time
    monkeypatch.setitem(storage._S3_OPTIONS["config_kwargs"], "retries", {"total_max_attempts": 1})
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with s3_server(tmp_path / "s3") as port, proxy(port, store.decide) as before:
        store.requests = before.seen
        for name, value in environment(before.port).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield store
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def far(job: Job, store: Store) -> Job:
    """A job whose run is in the store."""
    return dataclasses.replace(job, run_url="s3://bucket/run")


@pytest.mark.parametrize(
    ("breaks_at", "answer"),
    [
        ("seen/", Answer(503, "ServiceUnavailable")),
        (f"{NAME}/optimizer.pt", Answer(0, "")),  # the connection is lost
        (f"{NAME}/{MANIFEST}", Answer(403, "AccessDenied")),
        ("metrics.jsonl", Answer(500, "InternalError")),
    ],
)
def test_a_checkpoint_is_written_again_until_the_store_is_back(
    far: Job, store: Store, group: Group, pauses: Pauses, lines: list[str], breaks_at: str, answer: Answer
) -> None:
    group.path, folder = "bucket/run", store.folder / NAME
    state, seen = trained(far.settings.science, far.total, 60), Seen(ATTEMPT.name, 0)
    seen.add(np.arange(60), [f"image-{at}" for at in range(60)])
    early: list[bool] = []

    def then(number: int) -> None:
        early.append((folder / MANIFEST).exists())
        if number == 3:
            store.back()

    pauses.then = then
    with RunLog(place(far.run_url), 0, tensorboard=False) as log:
        log.write({"images_seen": 60, "loss": 1.0, "images_per_second": 1.0})
        store.answer, store.breaks_at = answer, f"PUT /bucket/run/{breaks_at}"
        saver = Saver(far, ATTEMPT, set(), {"plan": far.plan.digest}, log, seen)
        saver(state, urgent=False)
        saver.finish()
        assert [record["images_seen"] for record in read_metrics(place(far.run_url))] == [60], "not only at the end"
    assert group.listed() == [NAME]
    assert damage(folder) is None
    puts = [request for request in store.requests if request.startswith("PUT") and NAME in request]
    assert MANIFEST in puts[-1], "the last file makes it whole"
    assert early == [breaks_at == "metrics.jsonl"] * 3, "until then it must not be taken for whole"
    assert lineage(place(far.run_url), ATTEMPT.name, 60)["position"].to_pylist() == list(range(60))
    assert pauses.taken == [1, 2, 4]
    ends = [f"; the checkpoint is written again in {pause} s, training goes on" for pause in (1, 2, 4)]
    assert [line.endswith(end) for line, end in zip(lines, ends, strict=True)] == [True] * 3
    assert all(line.startswith("s3://bucket/run/") and "the store " in line for line in lines)


@pytest.mark.parametrize("breaks_at", ["GET /bucket", f"GET /bucket/run/{NAME}/optimizer.pt"])
def test_a_start_reads_again_until_the_store_is_back(
    far: Job, store: Store, pauses: Pauses, lines: list[str], monkeypatch: pytest.MonkeyPatch, breaks_at: str
) -> None:
    """It is away before the checkpoints are listed, or goes when half of one is read."""
    monkeypatch.setattr(worker, "broadcast_from_rank_zero", lambda value: value)
    state, again = (trained(far.settings.science, far.total, position) for position in (60, 10))
    copy = checkpoint.snapshot(state, far.settings.science.model, far.pixels, {"plan": far.plan.digest})
    checkpoint.write(copy, place(far.run_url) / NAME)
    store.breaks_at, pauses.then = breaks_at, lambda number: store.back() if number == 3 else None
    worker._restore(far, again, 0, 1)
    assert equal(values(again), values(state))
    assert pauses.taken == [1, 2, 4]
    ends = [f"; the checkpoint is read again in {pause} s" for pause in (1, 2, 4)]
    assert [line.endswith(end) for line, end in zip(lines[:-1], ends, strict=True)] == [True] * 3
    assert all(line.startswith("s3://bucket/run") and "the store fails" in line for line in lines[:-1])
    assert lines[-1] == f"going on from 60 images seen with 1 worker (s3://bucket/run/{NAME})"


def test_a_start_gives_up_when_the_store_stays_away(far: Job, store: Store, pauses: Pauses, lines: list[str]) -> None:
    store.away = True
    with pytest.raises(StorageError, match="s3://bucket/run: the store fails"):
        worker._patiently(far, lambda: run.checkpoints(place(far.run_url)))
    assert pauses.taken == [1, 2, 4, 8, 16, 32, *[60] * 9], "the first sum beyond PATIENCE, and no pause after it"
    assert sum(pauses.taken[:-1]) <= worker.PATIENCE < sum(pauses.taken)
    assert len(lines) == len(pauses.taken)


@pytest.mark.parametrize("error", [UserError("not whole"), PermissionError("this file"), FileNotFoundError("gone")])
def test_what_waiting_does_not_cure_is_told_at_once(
    job: Job, pauses: Pauses, lines: list[str], error: Exception
) -> None:
    def read() -> None:
        raise error

    with pytest.raises(type(error)):
        worker._patiently(job, read)
    assert (pauses.taken, lines) == ([], [])
