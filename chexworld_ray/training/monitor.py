"""What tells a healthy run from a collapsed one, read at the logging cadence only."""

import time
from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from chexworld_ray.metrics.rankme import rankme
from chexworld_ray.models.device import peak_memory
from chexworld_ray.training.step import StepReport

RANKME_IMAGES = 512


class Monitor:
    """Gathers step reports on the device; `read` waits for them and starts the next window."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._names = ("loss", *(f"loss_{part}" for part in parts))
        self._targets: deque[Tensor] = deque()
        self._predictions: deque[Tensor] = deque()
        self._start_window()

    def _start_window(self) -> None:
        self._sums: Tensor | None = None
        self._last: StepReport | None = None
        self._skipped: Tensor | float = 0.0
        self._steps = 0
        self._wait, self._saving, self._began = 0.0, 0.0, time.perf_counter()

    def add(self, report: StepReport, waited: float) -> None:
        """One step; `waited` is the time (s) that the step waited for its data."""
        self._sums = report.sums if self._sums is None else self._sums + report.sums
        self._last = report
        self._skipped = self._skipped + report.skipped
        self._steps += 1
        self._wait += waited
        _keep(self._targets, report.targets_BVND[:, 0].mean(dim=1))
        _keep(self._predictions, report.predictions_RBTD[0].float().mean(dim=1))

    def saved(self, seconds: float) -> None:
        """Time (s) that the steps stood still for a checkpoint."""
        self._saving += seconds

    def read(self) -> dict[str, Any]:
        """Means over the window and all workers, and the most memory (GiB) that any of them has held so far.

        Every worker must call it at the same step.
        """
        assert self._sums is not None
        assert self._last is not None
        sums = self._sums.clone()
        memory = torch.tensor(peak_memory(sums.device), device=sums.device)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(sums)
            dist.all_reduce(memory, dist.ReduceOp.MAX)
        total = sums.tolist()
        seconds = time.perf_counter() - self._began
        record: dict[str, Any] = {name: total[i] / max(total[-1], 1.0) for i, name in enumerate(self._names)}
        record["grad_norm"] = float(self._last.grad_norm)
        record["skipped_fraction"] = float(self._skipped) / self._steps
        record["target_std"] = _spread(self._last.targets_BVND)
        record["prediction_std"] = _spread(self._last.predictions_RBTD)
        record["rankme"] = rankme(torch.cat(list(self._targets)))
        record["rankme_prediction"] = rankme(torch.cat(list(self._predictions)))
        record["images_per_second"] = total[-1] / max(seconds, 1e-9)
        record["wait_fraction"] = self._wait / max(seconds, 1e-9)
        record["checkpoint_fraction"] = self._saving / max(seconds, 1e-9)
        record["memory_gib"] = float(memory)
        self._start_window()
        return record


def _keep(pooled: deque[Tensor], newest_BD: Tensor) -> None:
    """Add pooled features; only the newest RANKME_IMAGES or so stay."""
    pooled.append(newest_BD)
    while sum(map(len, pooled)) - len(pooled[0]) >= RANKME_IMAGES:
        pooled.popleft()


def _spread(features: Tensor) -> float:
    """Mean over channels of the standard deviation over tokens."""
    return float(features.float().flatten(0, -2).std(dim=0).mean())
