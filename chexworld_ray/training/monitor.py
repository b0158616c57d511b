"""What tells a healthy run from a collapsed one, read at the logging cadence only."""

import time
from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from chexworld_ray.metrics.rankme import rankme
from chexworld_ray.training.step import StepReport

RANKME_IMAGES = 512
NAMES = ("loss", "loss_local", "loss_global")


class Monitor:
    """Gathers step reports on the device; `read` waits for them and starts the next window."""

    def __init__(self) -> None:
        self._pooled: deque[Tensor] = deque()
        self._start_window()

    def _start_window(self) -> None:
        self._sums: Tensor | None = None
        self._last: StepReport | None = None
        self._wait, self._began = 0.0, time.perf_counter()

    def add(self, report: StepReport, waited: float) -> None:
        """One step; `waited` is the time (s) that the step waited for its data."""
        self._sums = report.sums if self._sums is None else self._sums + report.sums
        self._last = report
        self._wait += waited
        self._pooled.append(report.targets_BVND[:, 0].mean(dim=1))
        while sum(len(pooled) for pooled in self._pooled) - len(self._pooled[0]) >= RANKME_IMAGES:
            self._pooled.popleft()

    def read(self) -> dict[str, Any]:
        """Means over the window and all workers; every worker must call it at the same step."""
        assert self._sums is not None
        assert self._last is not None
        sums = self._sums.clone()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(sums)
        total = sums.tolist()
        seconds = time.perf_counter() - self._began
        record: dict[str, Any] = {name: total[i] / max(total[3], 1.0) for i, name in enumerate(NAMES)}
        record["grad_norm"] = float(self._last.grad_norm)
        record["target_std"] = float(self._last.targets_BVND.flatten(0, 2).std(dim=0).mean())
        record["prediction_std"] = float(self._last.predictions.float().flatten(0, 2).std(dim=0).mean())
        record["rankme"] = rankme(torch.cat(list(self._pooled)))
        record["images_per_second"] = total[3] / max(seconds, 1e-9)
        record["wait_fraction"] = self._wait / max(seconds, 1e-9)
        self._start_window()
        return record
