"""The training stream against a plain loop over the same Parquet files, and the wait that a step sees."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from chexworld_ray.benchmarks.measure import machine
from chexworld_ray.config import RunSettings, Science
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.board import new_board
from chexworld_ray.runtime.cluster import connect
from chexworld_ray.runtime.memory import MemoryCurve
from chexworld_ray.runtime.stream import StreamSettings, cropped_shares, read_shares
from chexworld_ray.shards.manifest import load
from chexworld_ray.shards.plan import Plan, make_plan
from chexworld_ray.shards.reader import read_window
from chexworld_ray.training.state import start_state
from chexworld_ray.training.step import train_step
from chexworld_ray.views.batch import make_batch, micro_batches

WARM_UP = 4  # shares that are not counted: the stream starts


def benchmark_stream(data: list[str], settings: RunSettings, images: int, steps: int) -> dict[str, Any]:
    """One JSON object: images/s of the plain loop, of the stream (encoded, and cropped), and of steps fed by it.

    Raises:
        UserError: there are fewer images than are asked for a run of two epochs.
    """
    manifests = [load(url) for url in data]
    science, runtime = settings.science, settings.runtime
    plan = make_plan(manifests, science.splits, science.projections, science.seed)
    total = -(-images // science.global_batch) * science.global_batch
    if total <= WARM_UP * science.global_batch:
        raise UserError(f"--images {images}: at least {(WARM_UP + 1) * science.global_batch} are needed")
    plain = _plain_loop(plan, total, science)
    connect(*data)
    threads = torch.get_num_threads()
    torch.set_num_threads(runtime.torch_threads or threads)
    rates: dict[str, float] = {}
    curves: dict[str, dict[str, Any]] = {}
    for name, source in (("encoded", read_shares), ("cropped", cropped_shares)):
        stream = _stream(plan, science, settings, total, name)
        with MemoryCurve() as curve:
            rates[name] = _rate(source(stream, 0, new_board()), science.global_batch, total)
        curves[name] = curve.shown()
    fed = min(total, (steps + WARM_UP) * science.global_batch)
    stepped = _steps(_stream(plan, science, settings, fed, "steps"), science, settings, fed, manifests[0].grey_mean)
    torch.set_num_threads(threads)
    return {
        "benchmark": "stream",
        "machine": machine(torch.device("cpu")),
        "images": total,
        "global_batch": science.global_batch,
        "plain_loop_images_per_second": round(plain, 1),
        "stream_images_per_second": round(rates["encoded"], 1),
        "cropped_images_per_second": round(rates["cropped"], 1),
        "stream_over_plain_loop": round(rates["encoded"] / plain, 3),
        **stepped,
        "memory": curves,
    }


def _stream(plan: Plan, science: Science, settings: RunSettings, total: int, name: str) -> StreamSettings:
    runtime = settings.runtime
    return StreamSettings(plan, science, total, runtime.segment_images, runtime.decode_threads, 1, 0, name)


def _plain_loop(plan: Plan, total: int, science: Science) -> float:
    """Images/s of reading the plan's windows with pyarrow, in order, bytes into Python."""
    began, count = time.perf_counter(), 0
    for window in plan.windows(0, total):
        table = read_window(plan, window, 0, total, science.global_batch, 0)
        count += len(table["image"].to_pylist())
    return count / (time.perf_counter() - began)


def _rate(shares: Iterator[Any], share: int, total: int) -> float:
    """Images/s of a stream after its first shares."""
    for _ in range(WARM_UP):
        next(shares)
    began = time.perf_counter()
    count = sum(share for _ in shares)
    assert count == total - WARM_UP * share, "the stream ended early"
    return count / (time.perf_counter() - began)


def _steps(
    stream: StreamSettings, science: Science, settings: RunSettings, total: int, mean: float
) -> dict[str, float]:
    """Real steps fed by the stream: images/s, and the part of the time that they wait for data."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = start_state(science, replace(stream, total=total).total, device)
    shares = cropped_shares(stream, 0, new_board())
    waited, began, counted = 0.0, time.perf_counter(), 0
    for number, asked in enumerate(range(0, total, science.global_batch)):
        if number == WARM_UP:
            waited, began, counted = 0.0, time.perf_counter(), 0
        start = time.perf_counter()
        share = next(shares)
        waited += time.perf_counter() - start
        batches = [
            make_batch(part, science, mean, 0.25, device) for part in micro_batches(share, settings.runtime.micro_batch)
        ]
        float(train_step(state, batches, science, 1).grad_norm)
        counted += science.global_batch
        assert state.position == asked + science.global_batch
    seconds = time.perf_counter() - began
    return {"step_images_per_second": round(counted / seconds, 2), "wait_fraction": round(waited / seconds, 4)}
