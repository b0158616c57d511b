"""One Ray for all tests of this folder that need no cluster of their own; runs that several tests look at."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.train
from stand_ins import Group, Pauses

from chexworld_ray.config import ModelSettings, OptimSettings, RunSettings, Runtime, Science
from chexworld_ray.runtime import patience
from chexworld_ray.runtime.job import Job
from chexworld_ray.runtime.pretrain import pretrain
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import Plan, RowGroup
from chexworld_ray.training.run import Run


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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def one(ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one worker that has ended. Who changes it, works on a copy of its folder."""
    return pretrain(tiny, [phantom_set.root.url], str(tmp_path_factory.mktemp("one")), "one")


@pytest.fixture(scope="session")
def two(ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with two workers, which write down what they see."""
    runtime = replace(tiny.runtime, workers="2", record_seen=True, probe_images=0, tensorboard=False)
    settings = RunSettings(science=tiny.science, runtime=runtime)
    return pretrain(settings, [phantom_set.root.url], str(tmp_path_factory.mktemp("two")), "two")


@pytest.fixture
def lines() -> list[str]:
    """What the user of `job` is told, in order."""
    return []


@pytest.fixture
def job(tiny: RunSettings, tmp_path: Path, lines: list[str]) -> Job:
    """A job of 240 images whose board is a list: for what a worker does beside the training, without Ray."""
    plan = Plan((RowGroup("file", 0, 60),), tiny.science.seed, 8_000)
    board = SimpleNamespace(push=SimpleNamespace(remote=lambda record: lines.append(record["message"])))
    return Job(tiny, [], plan, (0.5, 0.2), str(tmp_path / "run"), None, 240, board)


@pytest.fixture
def group(job: Job, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    """The worker group that this process takes itself for a part of."""
    group = Group(job.run_url)
    monkeypatch.setattr(ray.train, "report", group.report)
    monkeypatch.setattr(ray.train, "get_context", lambda: group)
    yield group
    group.thread.shutdown()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """The clock of attempts at a storage that fails."""
    pauses = Pauses()
    monkeypatch.setattr(patience, "sleep", pauses.sleep)
    monkeypatch.setattr(patience, "monotonic", pauses.now)
    return pauses
