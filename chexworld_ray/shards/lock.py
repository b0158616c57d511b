"""One writer at a time in one place: an ingest of a data set, a pretrain of a run, whoever adds to a table.

Each writes a lock of its own, renews it while it lives, and then looks for others: one that lives makes it refuse, or
wait for its turn. No store needs an atomic create for that, and of two that start at once none goes on unseen by the
other. A lock whose process is gone (same machine), or that is not renewed while it is watched, is of one that was
killed: it is removed, and the next one goes on at once.
"""

import os
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from chexworld_ray.errors import UserError
from chexworld_ray.storage import Place, children, exists, read_json, remove, remove_empty, write_json

RENEW_SECONDS = 4.0
WATCH_SECONDS = 3 * RENEW_SECONDS
PATIENCE = 600.0  # s that one waits for its turn
_FILE = re.compile(r"lock-\w+\.json")


@dataclass(frozen=True)
class Work:
    """What a lock is for, as messages name it, and what to do where another one has it."""

    name: str
    otherwise: str


INGEST = Work("ingest", "choose another --out")
PRETRAIN = Work("pretrain", "choose another --name")
SWEEP = Work("sweep", "choose another --name")
RESULTS = Work("evaluation", "choose another --out")


class LockLost(UserError):
    """Another one took this one for dead and took over."""


class _Taken(UserError):
    """Another one has the lock, and lives."""


@contextmanager
def locked(folder: Place, work: Work = INGEST, watch_seconds: float = WATCH_SECONDS) -> Iterator["Lock"]:
    """Hold the lock of a folder for the length of the block; where nothing else is in the folder it goes too.

    Raises:
        UserError: another one holds it.
    """
    try:
        with _held(folder, work, watch_seconds) as lock:
            yield lock
    finally:
        remove_empty(folder)


@contextmanager
def _held(folder: Place, work: Work, watch_seconds: float = WATCH_SECONDS) -> Iterator["Lock"]:
    lock = Lock(folder, work)
    try:
        others = [file for file in children(folder) if _FILE.fullmatch(file.name) and file.name != lock.file.name]
        for other in others:
            _refuse_if_alive(other, work, watch_seconds)
        yield lock
    finally:
        lock.release()


@contextmanager
def in_turn(folder: Place, work: Work, patience: float = PATIENCE) -> Iterator["Lock"]:
    """Hold the lock of a folder, after those who hold it now: for blocks that are short. The folder stays.

    Raises:
        UserError: others held it for `patience` seconds.
    """
    end = time.monotonic() + patience
    with ExitStack() as held:
        while True:
            try:
                lock = held.enter_context(_held(folder, work))
                break
            except _Taken:
                if time.monotonic() > end:
                    raise
            time.sleep(random.uniform(0.05, 0.5))  # of two that met, one comes back first
        yield lock


class Lock:
    """A lock file that a thread renews."""

    def __init__(self, folder: Place, work: Work = INGEST) -> None:
        self._work = work
        self.file = folder / f"lock-{uuid.uuid4().hex}.json"
        self.owner = _owner()
        self.lost = threading.Event()
        """Set when another one is seen to have taken over."""
        self._released = threading.Event()
        self._write(0)
        self._renewing = threading.Thread(target=self._renew, name=f"{work.name} lock", daemon=True)
        self._renewing.start()

    def check(self) -> None:
        """Make sure that the lock still stands, before something is published.

        Raises:
            LockLost: it does not.
        """
        if not exists(self.file):
            raise LockLost(self.loss)

    @property
    def loss(self) -> str:
        """The line on a lock that is gone."""
        return (
            f"{self.file.url}: the lock is gone: another {self._work.name} took this one for dead (was this "
            "machine asleep?) and took over; look whether it runs, else start this one again"
        )

    def stop(self) -> None:
        """Renew no more: the folder is about to be removed."""
        self._released.set()
        self._renewing.join()

    def release(self) -> None:
        """Let others in. In a store that is away the lock stays, as that of a process that was killed."""
        self.stop()
        with suppress(UserError, OSError):
            remove(self.file)

    def _write(self, beat: int) -> None:
        write_json(self.file, self.owner | {"beat": beat})

    def _renew(self) -> None:
        beat = 0
        while not self._released.wait(RENEW_SECONDS):
            beat += 1
            try:
                if exists(self.file):
                    self._write(beat)
                else:
                    self.lost.set()
            except (UserError, OSError):
                continue  # a store that is away for a while is the matter of what is written there, not of the lock


def _owner() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": _host(), "name": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def _host() -> str:
    """Tells machines, their boots, and containers apart: process numbers mean something within one only."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [socket.gethostname(), boot.read_text().strip() if boot.exists() else str(psutil.boot_time())]
    return "/".join([*parts, os.readlink(namespace) if namespace.exists() else ""])


def _refuse_if_alive(file: Place, work: Work, watch_seconds: float) -> None:
    """Remove the lock of a dead one.

    Raises:
        _Taken: it lives.
    """
    first = _read(file)
    if first is None:
        return
    if first["host"] == _host():
        alive = _runs(int(first["pid"]), float(first["started"]))
    else:
        time.sleep(watch_seconds)
        later = _read(file)
        alive = later is not None and later["beat"] != first["beat"]
    if alive:
        raise _Taken(
            f"{file.url.rsplit('/', 2)[0]}: another {work.name} writes there (process {first['pid']} on "
            f"{first['name']}); wait until it ends, or {work.otherwise}"
        )
    remove(file)


def _read(file: Place) -> dict[str, Any] | None:
    try:
        told = read_json(file)
    except UserError:
        return None
    kinds = {"host": str, "name": str, "pid": int, "started": float, "beat": int}
    return told if all(type(told.get(name)) is kind for name, kind in kinds.items()) else None


def _runs(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
