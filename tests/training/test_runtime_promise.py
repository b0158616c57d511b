"""Nothing in `Runtime` changes a result, but for rounding: each of its settings is held to it, or named with a reason.

Compiling, and workers that are processes: `test_parallel.py`, which is slow.
"""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from chexworld_ray.config import (
    MaskSettings,
    ModelSettings,
    ObjectiveKind,
    ObjectiveSettings,
    OptimSettings,
    Runtime,
    Science,
    ViewSettings,
)
from chexworld_ray.objectives import world_model
from chexworld_ray.objectives.sigreg import Sums
from chexworld_ray.shards.decode import encode_grey_jpeg
from chexworld_ray.shards.reader import expected_positions
from chexworld_ray.training import step as steps
from chexworld_ray.training.loop import Callbacks, train
from chexworld_ray.training.parallel import prepare
from chexworld_ray.training.state import TrainState, start_state
from chexworld_ray.training.step import train_step
from chexworld_ray.views.batch import CropBatch, crop_share, make_batch, micro_batches

MODEL = ModelSettings(image_size=32, patch_size=8, width=24, depth=1, heads=2, predictor_width=16, predictor_depth=1)
BATCH = 6
CPU = torch.device("cpu")
IMAGES = [
    encode_grey_jpeg(np.random.default_rng(at).integers(0, 255, (40, 36), np.uint8).repeat(2, axis=0), 90)
    for at in range(BATCH)
]
HERE = {"micro_batch", "workers", "torch_threads", "decode_threads", "activation_checkpointing"}
CADENCES = {"log_batches", "checkpoint_images", "notice_batches", "keep"}
ELSEWHERE = {
    "sharding": "test_parallel.py",
    "compile": "test_parallel.py",
    "segment_images": "test_plan.py: any stretch is a slice of the sequence",
    "probe_images": "test_probe.py: it looks at a copy",
    "record_seen": "writes down what the plan says",
    "tensorboard": "writes numbers down",
    "tracker": "sends numbers away",
    "gpu": "where it is computed",
    "cpus_per_worker": "where it is computed",
    "resize_seconds": "when workers are counted anew",
    "autoscaling": "whether machines are waited for",
    "max_failures": "when a run ends",
    "max_skipped_in_row": "when a run ends",
}


def test_every_setting_of_runtime_is_held_to_the_promise_somewhere() -> None:
    assert {field.name for field in dataclasses.fields(Runtime)} == HERE | CADENCES | set(ELSEWHERE)


objectives = st.builds(
    ObjectiveSettings,
    kind=st.sampled_from(ObjectiveKind.__args__),
    cross_view_targets=st.sampled_from(["masked", "all"]),
    visible_weight=st.sampled_from([0.0, 0.3]),
    sigreg_weight=st.sampled_from([0.2, 0.2, 0.0]),
)
sciences = st.builds(
    Science,
    model=st.just(MODEL),
    objective=objectives,
    views=st.sampled_from([ViewSettings(), ViewSettings(flip_probability=0.5, noise_sigma=(0.02, 0.1))]),
    masks=st.sampled_from([MaskSettings(), MaskSettings(overhang=True)]),
    optim=st.just(OptimSettings(lr=1e-3, warmup=0.0, clip=1e9)),
    global_batch=st.just(BATCH),
    precision=st.just("fp32"),
    seed=st.integers(0, 3),
)


def share(science: Science, first: int, workers: int, rank: int, threads: int) -> CropBatch:
    at = expected_positions(first, BATCH, workers, rank, 0)
    with ThreadPoolExecutor(threads) as pool:
        return crop_share([IMAGES[position % BATCH] if position >= 0 else b"" for position in at], at, science, pool)


def gradient(
    science: Science, runtime: Runtime, workers: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """Mean gradient over workers of one step of all parameters, and the sums that are logged.

    Workers come one after the other. Where they tell one another something, they come twice: first to tell it.
    """
    told: list[Sums] = []
    runs = 2 if workers > 1 and science.objective.sigreg_weight else 1
    found: list[Tensor] = []
    logged: list[Tensor] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(runtime.torch_threads or 1)
    for number in range(runs):
        known = Sums(*(torch.stack(part).sum(dim=0) for part in zip(*told, strict=True))) if number else None

        def over_workers(sums: Sums, known: Sums | None = known) -> Sums:
            told.append(sums)
            return known or sums

        for module in (steps, world_model):
            monkeypatch.setattr(module, "over_workers", over_workers)
        found, logged = [], []
        for rank in range(workers):
            state = start_state(science, 100, CPU)
            prepare(state, runtime, science.optim, 1)
            mine = share(science, BATCH, workers, rank, runtime.decode_threads)
            batches = [make_batch(part, science, 0.5, 0.25, CPU) for part in micro_batches(mine, runtime.micro_batch)]
            logged.append(train_step(state, batches, science, workers).sums)
            found.append(torch.cat([p.grad.flatten() for p in state.model.parameters() if p.grad is not None]))
    torch.set_num_threads(threads)
    return torch.stack(found).mean(dim=0), torch.stack(logged).sum(dim=0)


REGULARISED = Science(
    model=MODEL,
    objective=ObjectiveSettings(sigreg_weight=0.2),
    optim=OptimSettings(lr=1e-3, warmup=0.0, clip=1e9),
    global_batch=BATCH,
    precision="fp32",
)


@settings(max_examples=6, deadline=None)
@example(science=REGULARISED, workers=1, micro_batch=2, threads=1, decoders=1, recomputed=False)
@example(science=REGULARISED, workers=4, micro_batch=1, threads=2, decoders=3, recomputed=True)
@given(
    science=sciences,
    workers=st.integers(1, 4),
    micro_batch=st.integers(1, BATCH),
    threads=st.integers(1, 3),
    decoders=st.integers(1, 4),
    recomputed=st.booleans(),
)
def test_how_a_step_is_cut_and_spread_changes_nothing_but_rounding(
    science: Science, workers: int, micro_batch: int, threads: int, decoders: int, recomputed: bool
) -> None:
    runtime = Runtime(
        workers=str(workers),
        micro_batch=micro_batch,
        torch_threads=threads,
        decode_threads=decoders,
        activation_checkpointing=recomputed,
    )
    with pytest.MonkeyPatch.context() as patched:
        plain, plain_sums = gradient(science, Runtime(), 1, patched)
        cut, cut_sums = gradient(science, runtime, workers, patched)
    assert torch.allclose(cut_sums, plain_sums, rtol=1e-4, atol=1e-5)
    assert torch.linalg.norm(cut - plain) < 1e-4 * torch.linalg.norm(plain)


def trained(runtime: Runtime) -> list[Tensor]:
    science = Science(model=MODEL, objective=ObjectiveSettings(sigreg_weight=0.1), global_batch=BATCH, precision="fp32")
    state: TrainState = start_state(science, 8 * BATCH, CPU)

    def shares() -> Iterator[CropBatch]:
        for first in range(0, state.total, BATCH):
            yield share(science, first, 1, 0, runtime.decode_threads)

    nothing: Any = lambda *_, **__: None  # noqa: E731
    train(state, shares(), science, runtime, (0.5, 0.25), 1, Callbacks(nothing, nothing, lambda: False))
    return [*state.model.state_dict().values(), *state.target.state_dict().values()]


def test_cadences_change_not_a_bit() -> None:
    plain = trained(Runtime(log_batches=1))
    other = trained(Runtime(log_batches=3, checkpoint_images=BATCH, notice_batches=2, keep=1, decode_threads=4))
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_eight_steps_in_micro_batches_learn_what_whole_ones_do() -> None:
    plain, cut = trained(Runtime()), trained(Runtime(micro_batch=2))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=2e-5) for a, b in zip(plain, cut, strict=True))
