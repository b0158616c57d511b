"""One ingest at a time into one place.

Each ingest writes a lock of its own, renews it while it lives, and then looks for others: one that lives makes it
refuse. No store needs an atomic create for that, and of two that start at once none goes on unseen by the other. A
lock whose process is gone (same machine), or that is not renewed while it is watched, is of an ingest that was killed.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from chexworld_ray.errors import UserError
from chexworld_ray.storage import Place, children, exists, read_json, remove, remove_empty, write_json

RENEW_SECONDS = 4.0
WATCH_SECONDS = 3 * RENEW_SECONDS
_PREFIX = "lock-"


class LockLost(UserError):
    """Another ingest took this one for dead and took over."""


@contextmanager
def locked(folder: Place, watch_seconds: float = WATCH_SECONDS) -> Iterator["Lock"]:
    """Hold the lock of a folder for the length of the block.

    Raises:
        UserError: another ingest holds it.
    """
    lock = Lock(folder)
    try:
        others = [file for file in children(folder) if file.name.startswith(_PREFIX) and file.name != lock.file.name]
        for other in others:
            _refuse_if_alive(other, watch_seconds)
        yield lock
    finally:
        lock.release()


class Lock:
    """A lock file that a thread renews."""

    def __init__(self, folder: Place) -> None:
        self.file = folder / f"{_PREFIX}{uuid.uuid4().hex}.json"
        self._owner = _owner()
        self._released = threading.Event()
        self._write(0)
        self._renewing = threading.Thread(target=self._renew, name="ingest lock", daemon=True)
        self._renewing.start()

    def check(self) -> None:
        """Make sure that the lock still stands, before something is published.

        Raises:
            LockLost: it does not.
        """
        if not exists(self.file):
            raise LockLost(
                f"{self.file.url}: the lock is gone: another ingest took this one for dead (was this machine asleep?) "
                "and took over; look whether it runs, else start this one again"
            )

    def stop(self) -> None:
        """Renew no more: the folder is about to be removed."""
        self._released.set()
        self._renewing.join()

    def release(self) -> None:
        """Let others in."""
        self.stop()
        remove(self.file)
        remove_empty(self.file.parent)

    def _write(self, beat: int) -> None:
        write_json(self.file, self._owner | {"beat": beat})

    def _renew(self) -> None:
        beat = 0
        while not self._released.wait(RENEW_SECONDS):
            beat += 1
            try:
                if exists(self.file):
                    self._write(beat)
            except UserError:
                continue  # a store that is away for a while ends the ingest at its next write, not here


def _owner() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": _host(), "name": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def _host() -> str:
    """Tells machines, their boots, and containers apart: process numbers mean something within one only."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [socket.gethostname(), boot.read_text().strip() if boot.exists() else str(psutil.boot_time())]
    return "/".join([*parts, os.readlink(namespace) if namespace.exists() else ""])


def _refuse_if_alive(file: Place, watch_seconds: float) -> None:
    """Remove the lock of a dead ingest.

    Raises:
        UserError: its ingest lives.
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
        raise UserError(
            f"{file.url.rsplit('/', 2)[0]}: another ingest writes there (process {first['pid']} on {first['name']}); "
            "wait until it ends, or choose another --out"
        )
    remove(file)


def _read(file: Place) -> dict[str, Any] | None:
    try:
        return read_json(file)
    except UserError:
        return None


def _runs(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
