"""Progress of a run on the driver: a live display on a terminal, plain lines elsewhere."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from chexworld_ray.addresses import masked
from chexworld_ray.shards.lock import Lock

POLL_SECONDS = 0.5


def line(record: dict[str, Any]) -> str:
    """One record as a plain line."""
    left = (record["images_total"] - record["images_seen"]) / max(record["images_per_second"], 1e-9)
    return (
        f"{record['images_seen']}/{record['images_total']} images  {_figures(record)}  "
        f"{int(left) // 60}:{int(left) % 60:02d} left"
    )


def _figures(record: dict[str, Any]) -> str:
    parts = {name.removeprefix("loss_"): value for name, value in record.items() if name.startswith("loss_")}
    return (
        f"loss {record['loss']:.4f} ({', '.join(f'{name} {value:.4f}' for name, value in parts.items())})  "
        f"RankMe {record['target_rankme_centred']:.1f}  {_probe(record)}{record['images_per_second']:.0f} images/s  "
        f"wait {100 * record['wait_fraction']:.0f} %"
    )


def _probe(record: dict[str, Any]) -> str:
    return f"kNN {record['probe_knn']:.3f}  " if "probe_knn" in record else ""


class Display:
    """What the driver shows."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._live: Progress | None = None
        self._task: TaskID | None = None
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._live = Progress(*columns, console=self._console)
            self._task = self._live.add_task("starting workers", total=total)
            self._live.start()

    def show(self, record: dict[str, Any]) -> None:
        """A progress record, or a message for the user."""
        if "message" in record:
            self._console.print(masked(record["message"]), highlight=False, soft_wrap=True)
        elif self._live is not None and self._task is not None:
            self._live.update(self._task, description=_figures(record), completed=record["images_seen"])
        else:
            self._console.print(line(record), highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()


@contextmanager
def following(board: Any, total: int, lock: Lock) -> Iterator[None]:
    """Show what workers push to the board while the body runs; they are told to end where the lock is lost."""
    display, done = Display(total), threading.Event()

    def follow() -> None:
        while not done.wait(POLL_SECONDS):
            for record in ray.get(board.drain.remote()):
                display.show(record)
            if lock.lost.is_set():
                board.halt.remote(lock.loss)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        for record in ray.get(board.drain.remote()):
            display.show(record)
        display.stop()
