"""One training step: images/s, time of each part, model FLOP/s, memory, beside a plain timm ViT's step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chexworld_ray.benchmarks.measure import best_seconds, machine, memory_bytes, peak_bytes, reset_peak, wait
from chexworld_ray.config import MaskSettings, ModelSettings, Runtime, Science
from chexworld_ray.models.device import precision_on
from chexworld_ray.models.export import plain_vit
from chexworld_ray.training.parallel import prepare
from chexworld_ray.training.state import TrainState, start_state
from chexworld_ray.training.step import train_step
from chexworld_ray.views.batch import CropBatch, WorldModelBatch, make_batch

SIZES = {
    "test_vit": ModelSettings(width=48, depth=2, heads=3, predictor_width=48, predictor_depth=1),  # to try it out
    "vit_tiny": ModelSettings(width=192, heads=3, predictor_width=192),
    "vit_small": ModelSettings(width=384, heads=6),
    "vit_base": ModelSettings(),
    "vit_large": ModelSettings(width=1024, depth=24, heads=16),
}
PARTS = ("target", "encoder", "predictor", "forward", "backward", "optimizer", "ema")
MATRIX = 4096


@dataclass(frozen=True, kw_only=True)
class StepCase:
    """What is timed."""

    science: Science
    runtime: Runtime
    batch: int
    repeats: int


def make_case_batch(case: StepCase, device: torch.device) -> tuple[CropBatch, WorldModelBatch]:
    """Random crops of a batch, and what the device makes of them."""
    size, rng = case.science.model.image_size, np.random.default_rng(0)
    boxes = np.tile(np.array([[0, 0, 300, 320], [40, 30, 300, 320]], np.int32), (case.batch, 1, 1))
    crops = CropBatch(
        rng.integers(0, 255, (case.batch, 2, size, size), np.uint8),
        boxes,
        np.arange(case.batch),
        np.ones(case.batch, np.float32),
    )
    return crops, make_batch(crops, case.science, 0.5, 0.25, device)


def benchmark_step(case: StepCase, device: torch.device) -> dict[str, Any]:
    """One JSON object. Ratios to the calibrator (float32, same batch) carry over to other machines."""
    science = case.science
    calibrator = calibrator_seconds(science.model, case.batch, case.repeats, device)
    crops, batch = make_case_batch(case, device)
    step = _stepper(case, batch, device)
    reset_peak(device)
    step()
    wait(device)
    graphs = counters["stats"]["unique_graphs"]
    seconds = best_seconds(step, case.repeats, device)
    peak = peak_bytes(device)
    making = best_seconds(lambda: make_batch(crops, science, 0.5, 0.25, device), case.repeats, device)
    flops = step_flops(science, batch, device)
    precision = precision_on(device, science.precision)
    rate = matrix_rate(precision, device)
    return {
        "benchmark": "step",
        "machine": machine(device),
        "model": {"width": science.model.width, "depth": science.model.depth, "image_size": science.model.image_size},
        "tokens": dict(zip(("context", "target"), science.masks.budgets(science.model.grid), strict=True)),
        "batch": case.batch,
        "precision": precision,
        "compile": case.runtime.compile,
        "seconds": round(seconds, 6),
        "images_per_second": round(case.batch / seconds, 3),
        "views_seconds": round(making, 4),
        "parts_seconds": part_seconds(step, device),
        "gflop_per_image": round(flops / case.batch / 1e9, 4),
        "gflop_per_second": round(flops / seconds / 1e9, 3),
        "utilisation": round(flops / seconds / rate, 3),
        "matrix_gflop_per_second": round(rate / 1e9, 1),
        "peak_bytes": peak,
        "recompilations": counters["stats"]["unique_graphs"] - graphs,
        "calibrator_seconds": round(calibrator, 4),
        "ours_over_calibrator": round(seconds / calibrator, 3),
    }


def _stepper(case: StepCase, batch: WorldModelBatch, device: torch.device) -> Callable[[], None]:
    """A fresh state, and the call that takes one step of it."""
    science = replace(case.science, global_batch=case.batch)
    state = start_state(science, 10**9, device)
    prepare(state, case.runtime, science.optim, 1)

    def step() -> None:
        train_step(state, [batch], science, 1)

    return step


def calibrator_seconds(model: ModelSettings, batch: int, repeats: int, device: torch.device) -> float:
    """A plain timm ViT in float32: forward on colour images, mean square, backward, AdamW (BASELINE's calibrator)."""
    vit = plain_vit(model, 3).to(device)
    optimizer = torch.optim.AdamW(vit.parameters())
    images = torch.randn(batch, 3, model.image_size, model.image_size, device=device)

    def step() -> None:
        optimizer.zero_grad()
        vit(images).square().mean().backward()
        optimizer.step()

    return best_seconds(step, repeats, device)


def part_seconds(step: Any, device: torch.device) -> dict[str, float]:
    """Seconds of each part of one step, from the regions that the step marks; `forward` holds the first three."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        step()
        wait(device)
    found = {event.key: event for event in profile.key_averages() if event.key.startswith("step/")}
    parts = {}
    for name in PARTS:
        if event := found.get(f"step/{name}"):
            micros = event.device_time_total if device.type == "cuda" else event.cpu_time_total
            parts[name] = round(float(micros) / 1e6, 6)
    return parts


def step_flops(science: Science, batch: WorldModelBatch, device: torch.device) -> float:
    """Floating-point operations of the matrix products of one step: forward and backward."""
    state: TrainState = start_state(science, 10**9, device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, losses = state.compute(state.target, state.forward, batch, None)
        losses.total_B.sum().backward()
    return float(counter.get_total_flops())


def matrix_rate(precision: str, device: torch.device) -> float:
    """Operations per second of a large matrix product in the precision of the step: what utilisation is measured by."""
    side = MATRIX if device.type == "cuda" else MATRIX // 2
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2.0 * side**3 / best_seconds(lambda: F.linear(left, right), 5, device)


def memory_over_steps(case: StepCase, steps: int, device: torch.device) -> dict[str, Any]:
    """Memory in use after a tenth of `steps` steps and after all of them: what grows would show."""
    step = _stepper(case, make_case_batch(case, device)[1], device)
    early = None
    for number in range(1, steps + 1):
        step()
        if number == max(1, steps // 10):
            early = memory_bytes(device)
    return {"steps": steps, "bytes_after_a_tenth": early, "bytes_after_all": memory_bytes(device)}


def memory_per_image(case: StepCase, device: torch.device) -> float | None:
    """Bytes that one more image of a batch takes: from the peaks of a batch and of twice the batch, in processes of
    their own, for memory that was freed counts in the peak of the process that freed it.
    """
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = [
            pool.apply(_peak_of, (replace(case, batch=size), str(device), torch.get_num_threads()))
            for size in (case.batch, 2 * case.batch)
        ]
    first, second = peaks
    return None if first is None or second is None else (second - first) / case.batch


def _peak_of(case: StepCase, where: str, threads: int) -> int | None:
    torch.set_num_threads(threads)
    device = torch.device(where)
    step = _stepper(case, make_case_batch(case, device)[1], device)
    for _ in range(2):
        step()
    wait(device)
    return peak_bytes(device)


def case_of(size: str, masks: MaskSettings, precision: Any, image_size: int, patch_size: int) -> Science:
    """Settings of the paper's recipe at one of SIZES."""
    model = replace(SIZES[size], image_size=image_size, patch_size=patch_size)
    return Science(model=model, masks=masks, precision=precision)
