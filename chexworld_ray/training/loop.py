"""The loop around the step: takes any iterator of shares; Ray only supplies one."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from chexworld_ray.config import Runtime, Science
from chexworld_ray.errors import UserError
from chexworld_ray.training.monitor import Monitor
from chexworld_ray.training.probe import OnlineProbe
from chexworld_ray.training.schedules import ema_momentum, learning_rate, target_memory
from chexworld_ray.training.state import TrainState
from chexworld_ray.training.step import train_step
from chexworld_ray.views.batch import CropBatch, make_batch, micro_batches


class SaveState(Protocol):
    """Has a checkpoint of a state written; `urgent`: before all else."""

    def __call__(self, state: TrainState, *, urgent: bool) -> None: ...


class Callbacks(NamedTuple):
    """What the loop calls. All but the probe are called at the same positions on every worker."""

    log: Callable[[dict[str, Any]], None]
    """A record every `log_batches` steps and at the end."""
    checkpoint: SaveState
    """Each time the position passes a multiple of `checkpoint_images`, at the end, and on a notice."""
    notice: Callable[[], bool]
    """Looked at every `notice_batches` steps: whether a machine is about to go."""
    probe: OnlineProbe | None = None


def train(
    state: TrainState,
    shares: Iterator[CropBatch],
    science: Science,
    runtime: Runtime,
    pixels: tuple[float, float],
    workers: int,
    callbacks: Callbacks,
) -> None:
    """Train to the end of the run. `shares` yields this worker's share of each global batch from `state.position` on.

    Raises:
        UserError: `max_skipped_in_row` steps in a row were not finite (noticed at the logging cadence).
    """
    monitor, probe = Monitor(state.model.parts, state.recent, science.global_batch), callbacks.probe
    while state.position < state.total:
        began = time.perf_counter()
        share = next(shares)
        waited = time.perf_counter() - began
        batches = [
            make_batch(part, science, *pixels, state.device) for part in micro_batches(share, runtime.micro_batch)
        ]
        before = state.position
        monitor.add(train_step(state, batches, science, workers), waited)
        ends, step = state.position >= state.total, state.position // science.global_batch
        if ends or step % runtime.log_batches == 0:
            record = _record(state, science, monitor) | {"workers": workers}
            if probe is not None:
                record |= probe.latest()
                probe.offer(state.target, state.position)
            callbacks.log(record)
            _refuse_divergence(state, runtime)
        urgent = not ends and step % runtime.notice_batches == 0 and callbacks.notice()
        if ends or urgent or state.position // runtime.checkpoint_images > before // runtime.checkpoint_images:
            began = time.perf_counter()
            monitor.gather()
            callbacks.checkpoint(state, urgent=urgent)
            monitor.saved(time.perf_counter() - began)
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
    record["target_memory"] = target_memory(science.optim, state.position, state.total, science.global_batch)
    record["skipped_steps"] = int(state.skipped)
    record["time"] = time.time()
    return record
