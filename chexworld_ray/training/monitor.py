"""What tells a healthy run from a collapsed one, read at the logging cadence only.

Every number is of the global batches, so that it depends neither on micro-batches nor on workers nor on restarts; but
for those of time, of course.

Legend: S steps, B images of a worker's share, I images, D width.
"""

import time
from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from chexworld_ray.metrics.rankme import rankme
from chexworld_ray.models.device import peak_memory
from chexworld_ray.training.recent import RANKME_IMAGES, Recent
from chexworld_ray.training.step import StepReport


class Monitor:
    """Gathers step reports on the device; `read` waits for them and starts the next window."""

    def __init__(self, parts: tuple[str, ...], recent: Recent, global_batch: int) -> None:
        self._names = ("loss", *(f"loss_{part}" for part in parts))
        self._recent = recent
        self._most = -(-RANKME_IMAGES // global_batch) * global_batch
        self._pending: deque[StepReport] = deque(maxlen=self._most // global_batch)
        self._sums: Tensor | None = None
        self._start_clock()

    def _start_clock(self) -> None:
        self._wait, self._saving, self._began = 0.0, 0.0, time.perf_counter()
        self._images = 0.0

    def add(self, report: StepReport, waited: float) -> None:
        """One step; `waited` is the time (s) that the step waited for its data."""
        counted = torch.stack([report.skipped, torch.ones_like(report.skipped)])
        sums = torch.cat([report.sums, counted])
        self._sums = sums if self._sums is None else self._sums + sums
        self._pending.append(report)
        self._wait += waited

    def saved(self, seconds: float) -> None:
        """Time (s) that the steps stood still for a checkpoint."""
        self._saving += seconds

    def gather(self) -> None:
        """Bring what is remembered up to date with the steps of all workers.

        Every worker must call it at the same step.
        """
        if self._sums is None:
            return
        sums, together = self._sums, _together()
        if together:
            own = sums[-2:].clone()  # every worker counts the same steps
            dist.all_reduce(sums)
            sums[-2:] = own
        self._images += float(sums[-3])
        recent, known = self._recent, self._recent.since_L
        recent.since_L = sums if known is None else known + sums
        newest_2ID = _all_images(list(self._pending), together)
        kept = [newest_2ID] if recent.features_2ID is None else [recent.features_2ID, newest_2ID]
        recent.features_2ID = torch.cat(kept, dim=1)[:, -self._most :]
        self._sums = None
        self._pending.clear()

    def read(self) -> dict[str, Any]:
        """Means over the window and all workers, and the most memory (GiB) that any of them has held so far.

        What is measured in another way than before gets another name, for a run that goes on goes on with its curves.

        Every worker must call it at the same step.
        """
        assert self._pending, "a record is of a step"
        grad_norm = self._pending[-1].grad_norm
        self.gather()
        since_L, features_2ID = self._recent.since_L, self._recent.features_2ID
        assert since_L is not None
        assert features_2ID is not None
        memory = torch.tensor(peak_memory(since_L.device), device=since_L.device)
        if _together():
            dist.all_reduce(memory, dist.ReduceOp.MAX)
        *sums, images, skipped, steps = since_L.tolist()
        record: dict[str, Any] = {name: value / max(images, 1.0) for name, value in zip(self._names, sums, strict=True)}
        record["grad_norm"] = float(grad_norm)
        record["skipped_fraction"] = skipped / steps
        for name, of_ID in zip(("target", "prediction"), features_2ID, strict=True):
            record[f"{name}_std_over_images"] = _spread(of_ID)
            record[f"{name}_rankme_centred"] = rankme(of_ID)
        seconds = max(time.perf_counter() - self._began, 1e-9)
        record["images_per_second"] = self._images / seconds
        record["wait_fraction"] = self._wait / seconds
        record["checkpoint_fraction"] = self._saving / seconds
        record["memory_gib"] = float(memory)
        self._recent.since_L = None
        self._start_clock()
        return record


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _all_images(reports: list[StepReport], together: bool) -> Tensor:
    """Pooled features of the images of some steps, of all workers, in the order of the steps; 2xIxD, no padding."""
    features_S2BD = torch.stack([report.features_2BD for report in reports]).float()
    weights_SB = torch.stack([report.weights_B for report in reports])
    if together:
        features_S2BD, weights_SB = _joined(features_S2BD, 2), _joined(weights_SB, 1)
    return features_S2BD.transpose(0, 1).flatten(1, 2)[:, weights_SB.flatten() > 0]


def _joined(part: Tensor, dim: int) -> Tensor:
    """The parts of all workers, which are of one shape, one after the other."""
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts, dim=dim)


def _spread(features_ID: Tensor) -> float:
    """Mean over channels of the standard deviation over images: a token's place adds nothing to it, as it would over
    tokens. 0 of fewer than two images; those that are not finite take no part.
    """
    finite_ID = features_ID[features_ID.isfinite().all(dim=1)]
    return float(finite_ID.std(dim=0).mean()) if len(finite_ID) > 1 else 0.0
