"""One Ray for all tests of this folder that need no cluster of their own; a tiny recipe."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import ray

from chexworld_ray.config import ModelSettings, OptimSettings, RunSettings, Runtime, Science


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=4,
        resources={"eval_slot": 2},  # each trial at a time is a process that imports torch first
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def tiny() -> RunSettings:
    model = ModelSettings(
        image_size=48, patch_size=12, width=32, depth=2, heads=2, predictor_width=16, predictor_depth=1
    )
    science = Science(
        model=model,
        optim=OptimSettings(lr=1e-3, warmup=0.2, ema=(0.9, 1.0)),
        global_batch=10,
        epochs=4,
        precision="fp32",
    )
    runtime = Runtime(micro_batch=8, checkpoint_images=60, log_batches=2, segment_images=70, keep=20, torch_threads=1)
    return replace(RunSettings(), science=science, runtime=runtime)
