"""Two ingests into one place: the second is refused, unless the first is dead."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chexworld_ray import storage
from chexworld_ray.errors import UserError
from chexworld_ray.shards import lock as locks
from chexworld_ray.shards.lock import PRETRAIN, RESULTS, LockLost, in_turn, locked
from chexworld_ray.storage import StorageError, children, place, read_json, remove, write_json

HOLD = (
    "import sys, time\n"
    "from chexworld_ray.shards.lock import locked\n"
    "from chexworld_ray.storage import place\n"
    "with locked(place(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(120)\n"
)


def test_one_at_a_time(tmp_path: Path) -> None:
    folder = place(str(tmp_path / "work"))
    with locked(folder) as lock:
        with pytest.raises(UserError, match=f"another ingest writes there \\(process {os.getpid()}"), locked(folder):
            pass
        lock.check()
    assert not (tmp_path / "work").exists(), "an ingest that ends leaves no lock behind"
    with locked(folder):
        pass


def test_each_comes_in_its_turn_and_says_what_it_is(tmp_path: Path) -> None:
    """Of ten at once none goes in while another is there; one that is killed in there keeps nobody out."""
    folder = place(str(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder.path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"another pretrain .*process {holder.pid}.*--name"), locked(folder, PRETRAIN):
        pass
    with pytest.raises(UserError, match="another evaluation writes there"), in_turn(folder, RESULTS, patience=0.0):
        pass
    holder.kill()
    holder.wait()
    inside: list[int] = []

    def enter(number: int) -> int:
        with in_turn(folder, RESULTS):
            inside.append(number)
            seen = len(inside)
            assert children(folder), "its own lock is there"
            inside.remove(number)
        return seen

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(enter, range(10))) == [1] * 10
    assert children(folder) == []


def test_a_killed_ingest_holds_nothing(tmp_path: Path) -> None:
    folder = place(str(tmp_path / "work"))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder.path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {holder.pid}"), locked(folder):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(folder):
        assert len(children(folder)) == 1


def test_a_lock_of_another_machine_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place(str(tmp_path / "work"))
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.1)
    foreign = folder / "lock-foreign.json"
    write_json(foreign, {"host": "elsewhere", "name": "elsewhere", "pid": 1, "started": 0.0, "beat": 0})
    watched: list[float] = []
    monkeypatch.setattr(locks.time, "sleep", watched.append)
    with locked(folder, watch_seconds=7.0):
        assert len(children(folder)) == 1, "a lock that is not renewed is removed"
    assert watched == [7.0]
    with monkeypatch.context() as patch:
        patch.setattr(locks, "_host", lambda: "elsewhere")
        other = locks.Lock(folder)
    renewed, pause = read_json(other.file)["beat"], threading.Event()

    def until_renewed(_: float) -> None:
        while read_json(other.file)["beat"] == renewed:
            pause.wait(0.01)

    monkeypatch.setattr(locks.time, "sleep", until_renewed)
    with pytest.raises(UserError, match="another ingest writes there"), locked(folder, watch_seconds=7.0):
        pass
    other.release()


def test_who_was_taken_for_dead_publishes_nothing(tmp_path: Path) -> None:
    folder = place(str(tmp_path / "work"))
    with locked(folder) as lock:
        remove(lock.file)
        with pytest.raises(LockLost, match="took over"):
            lock.check()


def test_who_was_taken_for_dead_notices_it_without_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.05)
    with locked(place(str(tmp_path / "work"))) as lock:
        remove(lock.file)
        assert lock.lost.wait(20)
        assert not Path(lock.file.path).exists(), "it is not made anew"
    with locked(place(str(tmp_path / "work"))) as lock:
        pass
    assert not lock.lost.is_set()


def test_a_mount_that_is_away_takes_no_lock_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)
    asked = threading.Semaphore(0)

    def away(path: str) -> None:
        asked.release()
        raise OSError(errno.ESTALE, "Stale file handle", path)

    with locked(place(str(tmp_path / "work"))) as lock:
        with monkeypatch.context() as mounted:
            mounted.setattr(storage.os, "lstat", away)
            for _ in range(3):
                assert asked.acquire(timeout=20)
            with pytest.raises(StorageError, match="the storage is away"):
                lock.check()
        assert not lock.lost.is_set()
        lock.check()


def test_a_lock_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.05)
    with locked(place(str(tmp_path / "work"))) as lock:
        end = time.monotonic() + 20
        while read_json(lock.file)["beat"] < 2:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_lock_that_can_not_be_removed_hides_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(locks, "remove", refused)
    with locked(place(str(tmp_path / "work"))) as lock:
        pass
    assert Path(lock.file.path).exists()
