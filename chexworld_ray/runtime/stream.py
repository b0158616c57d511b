"""The training stream: a plan's rows to each worker, in exact order, and cropped there.

At global step k rank r gets exactly the positions `expected_positions` says; every row is checked. The stream
comes in segments that cross epochs (`runtime.segments`). Encoded bytes travel; the worker decodes and crops them in
threads, ahead of the step. While one segment drains, rank 0 builds the next.
"""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from chexworld_ray.config import Science
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.segments import segment_iterators
from chexworld_ray.shards.plan import Plan, segment_end
from chexworld_ray.shards.reader import expected_positions
from chexworld_ray.storage import StorageError
from chexworld_ray.training.seen import Seen
from chexworld_ray.views.batch import CropBatch, crop_share

AHEAD = 4  # shares that wait, cropped, for the step


@dataclass(frozen=True)
class StreamSettings:
    """What a worker's stream depends on."""

    plan: Plan
    science: Science
    total: int
    segment_images: int
    decode_threads: int
    workers: int
    rank: int
    attempt: str
    """Name of this start of the worker group: iterators of an earlier one are of no use."""


def read_shares(settings: StreamSettings, position: int, board: Any) -> Iterator[pa.Table]:
    """This rank's share of each global batch from `position` to the end of the run, still encoded, order checked.

    Raises:
        UserError: rows could not be read.
    """
    science = settings.science
    if settings.rank == 0:
        ray.get(board.keep_only.remote(f"{settings.attempt}:"))
    with ThreadPoolExecutor(1, thread_name_prefix="segments") as builder:
        building = _build(builder, settings, position, board)
        while position < settings.total:
            building.result()
            iterator = ray.get(board.take.remote(f"{settings.attempt}:{position}:{settings.rank}"))
            stop = segment_end(position, settings.total, science.global_batch, settings.segment_images)
            building = _build(builder, settings, stop, board)
            steps = 0
            for steps, block in enumerate(_blocks(iterator), start=1):
                _raise_told(block)
                _check_order(
                    block,
                    expected_positions(position, science.global_batch, settings.workers, settings.rank, steps - 1),
                )
                yield block
            due = (stop - position) // science.global_batch
            if steps != due:
                raise RuntimeError(
                    f"the stream of rank {settings.rank} ended after {steps} of {due} shares from {position}"
                )
            position = stop


def _blocks(iterator: Any) -> Iterator[pa.Table]:
    return iter(iterator.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))


def _build(builder: ThreadPoolExecutor, settings: StreamSettings, start: int, board: Any) -> "Future[None]":
    """Rank 0 builds the segment that begins at `start` and publishes its iterators."""

    def build() -> None:
        if settings.rank != 0 or start >= settings.total:
            return
        science = settings.science
        stop = segment_end(start, settings.total, science.global_batch, settings.segment_images)
        iterators = segment_iterators(settings.plan, start, stop, science.global_batch, settings.workers)
        for rank, iterator in enumerate(iterators):
            ray.get(board.publish.remote(f"{settings.attempt}:{start}:{rank}", iterator))

    return builder.submit(build)


def _raise_told(block: pa.Table) -> None:
    """Raise what the tasks that read these rows have told.

    Raises:
        UserError: a user can mend it.
        StorageError: the storage may come back.
    """
    for told, away in zip(block["told"].to_pylist(), block["away"].to_pylist(), strict=True):
        if told:
            raise StorageError(told) if away else UserError(told)


def _check_order(block: pa.Table, expected: np.ndarray) -> None:
    positions = block["position"].to_numpy()
    if not np.array_equal(positions, expected):
        at = int(np.argmax(positions[: len(expected)] != expected[: len(positions)])) if len(positions) else 0
        raise RuntimeError(
            f"the stream is out of order: row {at} of a block of {len(positions)} stands at position "
            f"{positions[at] if len(positions) else None}, due is {expected[at]}; nothing was trained on it"
        )


def cropped_shares(
    settings: StreamSettings, position: int, board: Any, seen: Seen | None = None
) -> Iterator[CropBatch]:
    """Shares decoded and cropped in threads, up to AHEAD of them before they are asked for; `seen` is told of each that
    is handed out.
    """
    ready: queue.Queue[tuple[CropBatch, list[str]] | BaseException | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def fill() -> None:
        try:
            with ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="crops") as pool:
                for block in read_shares(settings, position, board):
                    images = block["image"].to_pylist()
                    share = crop_share(images, block["position"].to_numpy(), settings.science, pool)
                    ready.put((share, block["image_id"].to_pylist()))
                    if stopped.is_set():
                        return
            ready.put(None)
        except BaseException as error:  # handed to the step, which raises it
            ready.put(error)

    threading.Thread(target=fill, name="stream", daemon=True).start()
    try:
        while (got := ready.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            share, image_ids = got
            if seen is not None:
                seen.add(share.positions_B, image_ids)
            yield share
    finally:
        stopped.set()
