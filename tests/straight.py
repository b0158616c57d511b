"""An undisturbed run without Ray, from the plan's definition: what runs through Ray are held against."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from chexworld_ray.config import Runtime, Science, from_dict
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import VERSION, make_plan
from chexworld_ray.shards.reader import expected_positions, read_window
from chexworld_ray.training.checkpoint_files import ENCODER, PREDICTOR, TARGET
from chexworld_ray.training.loop import Callbacks, train
from chexworld_ray.training.parallel import whole_state
from chexworld_ray.training.run import Run
from chexworld_ray.training.state import TrainState, start_state
from chexworld_ray.views.batch import CropBatch, crop_share

CPU = torch.device("cpu")


def shares(
    manifest: Manifest,
    science: Science,
    position: int,
    stop: int,
    workers: int = 1,
    rank: int = 0,
    version: int = VERSION,
) -> Iterator[CropBatch]:
    """What Ray supplies to a worker, by a version of the plan."""
    plan = make_plan([manifest], science.splits, science.projections, science.seed, version)
    images: dict[int, bytes] = {}
    for window in plan.windows(position, stop):
        table = read_window(plan, window, position, stop, science.global_batch, 0)
        images |= dict(zip(table["position"].to_pylist(), table["image"].to_pylist(), strict=True))
    with ThreadPoolExecutor(2) as pool:
        for step in range((stop - position) // science.global_batch):
            at = expected_positions(position, science.global_batch, workers, rank, step)
            yield crop_share([images.get(int(p), b"") for p in at], at, science, pool)


@dataclass(frozen=True)
class Straight:
    """State at the end, and the records of its log."""

    state: TrainState
    records: list[dict[str, Any]]

    def column(self, name: str) -> list[float]:
        """One number of every record."""
        return [record[name] for record in self.records]

    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """Tensors of each file of a checkpoint."""
        model, target = self.state.model, self.state.target
        parts = {ENCODER: model.encoder.vit, TARGET: target.vit, PREDICTOR: model.predictor}
        return {name: whole_state(module) for name, module in parts.items()}


def straight(run: Run, manifest: Manifest, images: int | None = None) -> Straight:
    """One worker, from the start to the end of `run`, or until it has seen `images` (whole global batches).

    Cadences of the log are those of its newest start; the same number of threads gives the same bits.
    """
    runtime = from_dict(Runtime, run.starts[-1]["runtime"], run.root.url)
    science, total = run.science, run.total
    state, records = start_state(science, total, CPU), []
    due = shares(manifest, science, 0, total if images is None else images, version=run.plan)
    callbacks = Callbacks(records.append, lambda state, urgent: None, lambda: False)
    with suppress(StopIteration):
        train(state, due, science, runtime, run.pixels, 1, callbacks)
    return Straight(state, records)


def same_weights(folder: Path, weights: dict[str, dict[str, torch.Tensor]]) -> list[str]:
    """Tensors of a checkpoint folder that differ in a bit from those given; all that they share must be there."""
    found = {name: load_file(folder / name) for name in weights}
    assert all(found[name].keys() == tensors.keys() for name, tensors in weights.items())
    return [
        f"{name}: {key}"
        for name, tensors in weights.items()
        for key, value in tensors.items()
        if not torch.equal(found[name][key], value)
    ]
