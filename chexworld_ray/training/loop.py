"""The loop around the step: takes any iterator of shares; Ray only supplies one."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from chexworld_ray.config import Runtime, Science
from chexworld_ray.errors import UserError
from chexworld_ray.training.monitor import Monitor
from chexworld_ray.training.probe import OnlineProbe
from chexworld_ray.training.schedules import ema_momentum, learning_rate
from chexworld_ray.training.state import TrainState
from chexworld_ray.training.step import train_step
from chexworld_ray.views.batch import CropBatch, make_batch, micro_batches


def train(
    state: TrainState,
    shares: Iterator[CropBatch],
    science: Science,
    runtime: Runtime,
    pixels: tuple[float, float],
    workers: int,
    log: Callable[[dict[str, Any]], None],
    checkpoint: Callable[[TrainState], None],
    probe: OnlineProbe | None = None,
) -> None:
    """Train to the end of the run. `shares` yields this worker's share of each global batch from `state.position` on.

    `log` gets a record every `log_batches` steps and at the end; `checkpoint` is called each time the position
    passes a multiple of `checkpoint_images` and at the end. Both are called on every worker.

    Raises:
        UserError: `max_skipped_in_row` steps in a row were not finite (noticed at the logging cadence).
    """
    monitor = Monitor(state.model.parts)
    while state.position < state.total:
        began = time.perf_counter()
        share = next(shares)
        waited = time.perf_counter() - began
        batches = [
            make_batch(part, science, *pixels, state.device) for part in micro_batches(share, runtime.micro_batch)
        ]
        before = state.position
        monitor.add(train_step(state, batches, science, workers), waited)
        ends = state.position >= state.total
        if ends or (state.position // science.global_batch) % runtime.log_batches == 0:
            record = _record(state, science, monitor)
            if probe is not None:
                record |= probe.latest()
                probe.offer(state.target, state.position)
            log(record)
            _refuse_divergence(state, runtime)
        if ends or state.position // runtime.checkpoint_images > before // runtime.checkpoint_images:
            checkpoint(state)
    if probe is not None:
        probe.close()


def _refuse_divergence(state: TrainState, runtime: Runtime) -> None:
    in_row = int(state.skipped_in_row)
    if in_row >= runtime.max_skipped_in_row:
        raise UserError(
            f"training diverged: the gradients of the last {in_row} steps up to {state.position} images seen were not "
            "finite, and these steps changed nothing; start again from an earlier checkpoint with a lower --optim.lr, "
            "or with --precision fp32"
        )


def _record(state: TrainState, science: Science, monitor: Monitor) -> dict[str, Any]:
    record = {"images_seen": state.position, "images_total": state.total} | monitor.read()
    record["lr"] = learning_rate(science.optim, state.position, state.total)
    record["ema"] = ema_momentum(science.optim, state.position, state.total)
    record["skipped_steps"] = int(state.skipped)
    record["time"] = time.time()
    return record
