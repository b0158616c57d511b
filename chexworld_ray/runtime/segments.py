"""A segment of a plan through Ray Data: row groups are read by tasks, and split among the workers in exact order.

Nothing here imports torch, nor anything that does: the processes that read would each start seconds later and hold
hundreds of megabytes for it.
"""

import time
from typing import Any

import pyarrow as pa
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback

from chexworld_ray.errors import UserError
from chexworld_ray.shards.plan import WINDOW_GROUPS, Plan, Window, share_size
from chexworld_ray.shards.reader import empty_window, read_window
from chexworld_ray.storage import StorageError

WINDOWS_AHEAD = 8  # of a worker
BATCHES_AHEAD = 32
LEAST_AHEAD = 64 * 2**20  # bytes
LONGEST_PAUSE = 0.05  # seconds; dozens of blocks are ahead of the trainer when there is nothing to do


class Unhurried(ExecutionCallback):
    """A pause in Ray Data's scheduling loop while a round of it changes nothing, longer each time.

    Ray 2.60 waits for blocks, and those that are ready but may not be read yet, because enough of them wait for the
    trainer, end that wait at once: the loop takes most of a core while there is nothing to do (BENCHMARKS.md).
    """

    def __init__(self) -> None:
        self._blocks = -1
        self._pause = 0.0

    def on_execution_step(self, executor: Any) -> None:
        """Called after each round."""
        blocks = sum(op.metrics.num_task_outputs_generated for op in executor._topology)
        self._pause = 0.0 if blocks != self._blocks else min(LONGEST_PAUSE, 2 * self._pause + 0.001)
        self._blocks = blocks
        time.sleep(self._pause)


def bytes_ahead(plan: Plan, global_batch: int, workers: int) -> int:
    """Bytes of the object store that may be read before they are trained on.

    Half of all nodes' stores otherwise, which is Ray Data's own bound: where that holds more than minutes of training,
    reading it slows the first steps on a small machine, and each restart of the workers reads it from storage again.
    """
    window = WINDOW_GROUPS * max(group.rows for group in plan.groups)
    images = max(WINDOWS_AHEAD * window * workers, BATCHES_AHEAD * global_batch)
    return max(LEAST_AHEAD, images * plan.image_bytes)


def segment_iterators(plan: Plan, start: int, stop: int, global_batch: int, workers: int) -> list[Any]:
    """Ray Data iterators over positions [start, stop), one for each worker; a block is one share.

    Of an error in a task Ray Data keeps the text only. So one that a user can mend travels in `told`, in the rows of
    what could not be read (empty elsewhere); `away`: the storage is to blame, and may come back.

    The order rests on preserve_order, equal blocks and round-robin splitting, which Ray does not promise: hence the
    check of every row where the blocks arrive.
    """
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=bytes_ahead(plan, global_batch, workers)
    )
    context.execution_no_progress_timeout_s = -1  # a paused trainer is no fault of the stream's
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.custom_execution_callback_classes = [Unhurried]
    share = share_size(global_batch, workers)
    padding = share * workers - global_batch
    windows = list(plan.windows(start, stop))

    def read(block: pa.Table) -> pa.Table:
        window = _from_row({name: block[name][0].as_py() for name in block.column_names})
        told, away = "", False
        try:
            table = read_window(plan, window, start, stop, global_batch, padding)
        except UserError as error:
            table = empty_window(window, start, stop, global_batch, padding)
            told, away = str(error), isinstance(error, StorageError)
        table = table.append_column("told", [pa.repeat(told, table.num_rows)])
        return table.append_column("away", [pa.repeat(away, table.num_rows)])

    # not `from_arrow`, which asks a worker process about each table before it goes on
    due = ray.data.from_items([_as_row(window) for window in windows], override_num_blocks=len(windows))
    rows = due.map_batches(read, batch_size=None, batch_format="pyarrow")
    shares = rows.repartition(target_num_rows_per_block=share, strict=True)
    return list(shares.streaming_split(workers, equal=True))


def _as_row(window: Window) -> dict[str, Any]:
    return {
        "epoch": window.epoch,
        "number": window.number,
        "start": window.start,
        "groups": list(window.groups),
        "rows": window.rows,
    }


def _from_row(row: dict[str, Any]) -> Window:
    return Window(row["epoch"], row["number"], row["start"], tuple(row["groups"]), row["rows"])
