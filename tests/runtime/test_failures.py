"""Errors of workers: told at once, tried again where that may help, and else the end of the run, in one line."""

import errno
import pickle
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.runtime import pretrain as pretraining
from chexworld_ray.runtime.failures import Failures, WorkerFailed, failing_at, to_blame
from chexworld_ray.runtime.pretrain import DRIVER, pretrain
from chexworld_ray.shards.decode import DamagedImage
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import StorageError

END = "the same error came before at the same position"


def failed(error: Exception, position: int | None = 20) -> Exception:
    """What arrives at the controller of an error that a worker met after so many images."""
    with pytest.raises((UserError, WorkerFailed)) as caught, failing_at(lambda: position):
        raise error
    return pickle.loads(pickle.dumps(caught.value))


def killed(said: str = "Worker exit type: SYSTEM_ERROR") -> Exception:
    return WorkerHealthCheckFailedError("health", RayActorError(error_msg=said))


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def starts(told: list[str]) -> Callable[..., None]:
    """A group of workers starts and ends with these errors, by rank."""
    push = SimpleNamespace(remote=lambda record: told.append(record["message"]))
    failures = Failures(SimpleNamespace(push=push))

    def start(*errors: Exception, checkpoint: int | None = None) -> None:
        failures.before_worker_group_start(None)
        if checkpoint is not None:
            failures.after_report(None, [{"images_seen": checkpoint}, {}])
        failures.weigh(dict(enumerate(errors)))
        failures.weigh(dict(enumerate(errors)))  # the next look at the same workers

    return start


def test_an_error_of_a_start_counts_until_there_was_progress(starts: Callable[..., None], told: list[str]) -> None:
    starts(failed(RuntimeError("CUDA error: device busy"), None))
    assert told == [told[0]]
    assert "images seen" not in told[0]
    starts(failed(RuntimeError("CUDA error: device busy"), None), checkpoint=9_000_000)
    with pytest.raises(UserError, match=END):
        starts(failed(RuntimeError("CUDA error: device busy"), None), checkpoint=9_000_000)


def test_errors_that_take_turns_end_the_run(starts: Callable[..., None]) -> None:
    starts(failed(ValueError("a")))
    starts(failed(KeyError("b")))
    with pytest.raises(UserError, match=END):
        starts(failed(ValueError("a")))


def test_the_first_error_is_told_at_once_and_once(starts: Callable[..., None], told: list[str]) -> None:
    starts(failed(ValueError("no\nsuch thing")))
    (line,) = told
    assert line.startswith("worker 0 failed at 20 images seen: ValueError: no such thing")
    assert line.endswith("the workers start again from the newest checkpoint")
    assert "\n" not in line


@pytest.mark.parametrize(
    "error", [ValueError("no such thing"), torch.OutOfMemoryError("CUDA out of memory"), KeyError("column")]
)
def test_the_same_error_at_the_same_position_ends_the_run(
    starts: Callable[..., None], told: list[str], error: Exception
) -> None:
    starts(failed(error))
    with pytest.raises(UserError, match=END) as caught:
        starts(failed(error))
    assert "\n" not in str(caught.value)
    assert type(error).__name__ in str(caught.value)
    assert ("--micro-batch" in str(caught.value)) == isinstance(error, torch.OutOfMemoryError)
    assert len(told) == 1


def test_losses_and_other_errors_in_between_change_nothing(starts: Callable[..., None], told: list[str]) -> None:
    starts(failed(ValueError("a")))
    starts(killed())
    with pytest.raises(UserError, match=END):
        starts(failed(ValueError("a")))


def test_an_error_elsewhere_or_of_another_kind_is_another_one(starts: Callable[..., None], told: list[str]) -> None:
    for position in (20, 40, 60):
        starts(failed(ValueError("a"), position))
    starts(failed(KeyError("a"), 60))
    assert len(told) == 4


@pytest.mark.parametrize(
    "error",
    [
        killed(),
        failed(StorageError("s3://away: the store can't be reached")),
        failed(ObjectLostError("00", None, "")),  # pyright: ignore[reportArgumentType]
        failed(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")),
        failed(dist.DistNetworkError("timed out")),
        failed(RayTaskError("read", "traceback", ObjectLostError("00", None, ""))),  # pyright: ignore[reportArgumentType]
        failed(OSError(errno.ESTALE, "Stale file handle")),
        failed(RayTaskError("read", "traceback", OSError(errno.EIO, "Input/output error"))),  # pyright: ignore[reportArgumentType]
    ],
    ids=["killed", "storage", "object", "peer", "network", "task", "mount", "mount of a task"],
)
def test_what_a_lost_machine_or_store_may_have_done_is_tried_again(
    starts: Callable[..., None], told: list[str], error: Exception
) -> None:
    for _ in range(5):
        starts(error)
    assert len(told) == 5


def test_what_a_user_can_mend_ends_the_run_whichever_worker_it_is(starts: Callable[..., None], told: list[str]) -> None:
    with pytest.raises(DamagedImage, match="position 7"):
        starts(failed(RuntimeError("collateral")), failed(DamagedImage("at position 7 of the stream")))
    assert told == []


def test_memory_that_ends_twice_without_a_checkpoint_in_between_ends_the_run(
    starts: Callable[..., None], told: list[str]
) -> None:
    spent = killed("Worker exit type: NODE_OUT_OF_MEMORY, running low on memory")
    starts(spent)
    starts(spent, checkpoint=100)
    with pytest.raises(UserError, match=r"at 100 images seen: out of memory.*--micro-batch"):
        starts(spent)


def test_the_worker_that_is_gone_is_to_blame_for_what_others_say() -> None:
    others = failed(RuntimeError("Connection closed by peer"))
    rank, blamed = to_blame({0: others, 1: killed()}, 0)
    assert (rank, str(blamed)) == (1, "its process or machine is gone: killed, or out of memory")
    assert to_blame({0: others, 1: failed(ValueError("a"))}, 0)[0] == 1


def test_an_error_of_a_thread_that_uploads_is_counted_from_the_newest_checkpoint(
    starts: Callable[..., None], told: list[str]
) -> None:
    starts(TypeError("bytes expected"), checkpoint=60)
    with pytest.raises(UserError, match="worker 0 failed at 60 images seen: TypeError: bytes expected"):
        starts(TypeError("bytes expected"))


@pytest.mark.slow
def test_ray_starts_a_broken_loop_once_more_and_the_run_ends_in_one_line(
    ray_here: None,
    phantom_set: Manifest,
    tiny: RunSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    starts = tmp_path / "starts"

    def broken(config: dict[str, Any]) -> None:
        with starts.open("a") as file, failing_at(lambda: 20):
            file.write("x")
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(pretraining, "train_loop", broken)
    told = rf"worker 0 failed at 20 images seen: ZeroDivisionError: a bug \(test_failures\.py:\d+\); {END}"
    with pytest.raises(UserError, match=told):
        pretrain(tiny, [phantom_set.root.url], str(tmp_path), "broken")
    assert starts.read_text() == "xx"
    assert capfd.readouterr().err.count("worker 0 failed at 20 images seen") == 1


@pytest.mark.slow
def test_a_driver_that_lost_its_lock_ends_its_run_in_one_line(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(config: dict[str, Any]) -> None:
        for lock in (Path(config["job"].run_url) / DRIVER).glob("lock-*"):
            lock.unlink()
        Future().result()  # trains on for ever

    monkeypatch.setattr(pretraining, "train_loop", overtaken)
    with pytest.raises(UserError, match="the lock is gone: another pretrain") as caught:
        pretrain(tiny, [phantom_set.root.url], str(tmp_path), "overtaken")
    assert "\n" not in str(caught.value)
