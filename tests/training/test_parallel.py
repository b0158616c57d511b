"""Spread over workers, recomputed or compiled, a step learns the same; checkpoints pass from one way to the other."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch._dynamo.utils import counters

from chexworld_ray.config import ModelSettings, ObjectiveSettings, OptimSettings, Runtime, Science
from chexworld_ray.storage import place
from chexworld_ray.training import checkpoint
from chexworld_ray.training.checkpoint_files import damage
from chexworld_ray.training.monitor import Monitor
from chexworld_ray.training.parallel import prepare, whole_state
from chexworld_ray.training.state import TrainState, start_state
from chexworld_ray.training.step import train_step
from chexworld_ray.views.batch import CropBatch, WorldModelBatch, make_batch, micro_batches

MODEL = ModelSettings(image_size=48, patch_size=12, width=32, depth=2, heads=2, predictor_width=16, predictor_depth=1)
SCIENCE = Science(
    model=MODEL,
    objective=ObjectiveSettings(sigreg_weight=0.05, visible_weight=0.1),  # SIGReg looks across all of them
    optim=OptimSettings(lr=1e-3, warmup=0.1),
    global_batch=4,
    precision="fp32",
)
CPU = torch.device("cpu")
STEPS, TOTAL = 3, 64


def batches(step: int, rank: int, workers: int) -> list[WorldModelBatch]:
    """All of a worker that is alone; of several each image by itself."""
    rng = np.random.default_rng(step)
    crops = rng.integers(0, 255, (4, 2, 48, 48), np.uint8)
    boxes = np.array([[[0, 0, 50, 60], [13, 7, 50, 60]]] * 4, np.int32)
    positions = np.arange(4 * step, 4 * step + 4)
    mine = slice(4 // workers * rank, 4 // workers * (rank + 1))
    share = CropBatch(crops[mine], boxes[mine], positions[mine], np.ones(4 // workers, np.float32))
    return [make_batch(part, SCIENCE, 0.5, 0.25, CPU) for part in micro_batches(share, 4 if workers == 1 else 1)]


def run(state: TrainState, rank: int, workers: int, steps: int = STEPS) -> list[float]:
    first = state.position // 4
    monitor, norms = Monitor(state.model.parts, state.recent, SCIENCE.global_batch), []
    for step in range(first, first + steps):
        report = train_step(state, batches(step, rank, workers), SCIENCE, workers)
        monitor.add(report, 0.0)
        norms.append(float(report.grad_norm))
    monitor.gather()
    return norms


def prepared(runtime: Runtime, workers: int) -> TrainState:
    state = start_state(SCIENCE, TOTAL, CPU)
    prepare(state, runtime, SCIENCE.optim, workers)
    return state


def spread(rank: int, sharding: Any, port: int, source: str | None, out: str) -> None:
    """One of two workers: from a checkpoint, if there is one, three steps on, and a checkpoint of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    state = prepared(Runtime(workers="2", sharding=sharding), 2)
    if source is not None:
        checkpoint.load(state, Path(source))
    run(state, rank, 2)
    copy = checkpoint.snapshot(state, MODEL, (0.5, 0.25), {"plan": "p"})  # sharded, all must ask for it
    if rank == 0:
        checkpoint.write(copy, place(out))
    dist.barrier()
    dist.destroy_process_group()


def on_two(sharding: str, source: Path | None, out: Path) -> None:
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(spread, (sharding, port, str(source) if source else None, str(out)), nprocs=2)  # pyright: ignore


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return whole_state(state.model) | {f"target.{k}": v for k, v in whole_state(state.target).items()}


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_workers_learn_what_one_does_and_pass_it_on(sharding: str, tmp_path: Path) -> None:
    """Two → one → two: each part goes on from the whole checkpoint of the one before."""
    straight = prepared(Runtime(), 1)
    run(straight, 0, 1, 3 * STEPS)
    on_two(sharding, None, tmp_path / "two")
    assert damage(tmp_path / "two") is None
    alone = prepared(Runtime(), 1)
    checkpoint.load(alone, tmp_path / "two")
    run(alone, 0, 1)
    (tmp_path / "one").mkdir()
    checkpoint.write(checkpoint.snapshot(alone, MODEL, (0.5, 0.25), {"plan": "p"}), place(str(tmp_path / "one")))
    on_two(sharding, tmp_path / "one", tmp_path / "again")
    last = prepared(Runtime(), 1)
    checkpoint.load(last, tmp_path / "again")
    assert last.position == straight.position == 3 * STEPS * 4
    for name, value in weights(straight).items():
        assert torch.allclose(weights(last)[name], value, atol=2e-4), name
    assert last.optimizer.state_dict()["state"][0]["step"] == 3 * STEPS
    wanted = straight.recent.tensors()
    assert wanted["features"].shape[1] == 3 * STEPS * 4, "of all workers"
    for name, value in last.recent.tensors().items():
        assert torch.allclose(value, wanted[name], atol=2e-3), name


def test_recomputing_activations_changes_nothing() -> None:
    plain, recomputed = prepared(Runtime(), 1), prepared(Runtime(activation_checkpointing=True), 1)
    assert run(plain, 0, 1) == pytest.approx(run(recomputed, 0, 1), rel=1e-5)


@pytest.mark.slow
def test_a_compiled_step_is_compiled_once_and_computes_the_same() -> None:
    torch._dynamo.reset()
    plain, compiled = prepared(Runtime(), 1), prepared(Runtime(compile=True), 1)
    expected = run(plain, 0, 1)
    got = run(compiled, 0, 1, 1)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 1
    got += run(compiled, 0, 1, STEPS - 1)
    assert counters["stats"]["unique_graphs"] == graphs, "a step after the first was compiled anew"
    assert got == pytest.approx(expected, rel=1e-3)
