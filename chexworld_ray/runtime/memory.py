"""Memory over time: this process and those below it, Ray's object store, and what it spilled to disk."""

import threading
from typing import Any

import psutil

SAMPLES_SHOWN = 20


class MemoryCurve:
    """Samples taken in a thread while a `with` block runs."""

    def __init__(self, seconds: float = 0.5) -> None:
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)
        self.private: list[int] = []
        """Bytes that belong to these processes alone."""
        self.store: list[int] = []
        """Bytes in the object store."""
        self.spilled = 0
        """Bytes that the object store wrote to disk."""

    def __enter__(self) -> "MemoryCurve":
        self._before = _store()[1]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.spilled = _store()[1] - self._before

    def _sample(self) -> None:
        while not self._ended.wait(self._seconds):
            self.private.append(_private())
            self.store.append(_store()[0])

    def shown(self) -> dict[str, Any]:
        """At most SAMPLES_SHOWN samples of each, in MB, evenly over time."""
        every = max(1, -(-len(self.private) // SAMPLES_SHOWN))
        return {
            "private_mb": [round(value / 1e6) for value in self.private[::every]],
            "object_store_mb": [round(value / 1e6, 1) for value in self.store[::every]],
            "seconds_between": self._seconds * every,
            "spilled_bytes": self.spilled,
        }


def _private() -> int:
    """Bytes of this process and all below it that no other process shares."""
    total = 0
    mine = psutil.Process()
    for process in [mine, *mine.children(recursive=True)]:
        try:
            total += process.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def _store() -> tuple[int, int]:
    """Bytes in the object stores of all nodes, and bytes spilled so far."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    here = ray.get_runtime_context().gcs_address  # without it Ray looks for any cluster on the machine
    stats = get_memory_info_reply(get_state_from_address(here)).store_stats
    return int(stats.object_store_bytes_used), int(stats.spilled_bytes_total)
