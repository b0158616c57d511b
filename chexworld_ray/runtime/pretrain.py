"""Ray Train wiring of a run: the driver starts workers between a least and a most number, and shows progress."""

import json
from dataclasses import replace
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from chexworld_ray import storage
from chexworld_ray.config import RunSettings, Runtime
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.board import new_board
from chexworld_ray.runtime.cluster import connect, place_workers, say, user_error
from chexworld_ray.runtime.failures import Failures, to_blame
from chexworld_ray.runtime.filesystem import ray_storage
from chexworld_ray.runtime.job import Job
from chexworld_ray.runtime.progress import following
from chexworld_ray.runtime.reservation import release
from chexworld_ray.shards.lock import PRETRAIN, Lock, locked
from chexworld_ray.shards.manifest import load as load_manifest
from chexworld_ray.shards.plan import make_plan
from chexworld_ray.storage import Place
from chexworld_ray.training import run
from chexworld_ray.training.checkpoint_files import folder_name, position_of
from chexworld_ray.training.schedules import memory_lines
from chexworld_ray.training.start import copy_start
from chexworld_ray.training.trackers import require

RAY_LIST = "checkpoint_manager_snapshot.json"
DRIVER = "_driver"  # the lock of the one that drives the run, while it does


def pretrain(
    settings: RunSettings, data: list[str], storage_url: str, name: str, resume_from: str | None = None
) -> run.Run:
    """Train the run `name` below `storage_url` to its end, going on from its newest whole checkpoint.

    A run without one goes on from `resume_from` (a run, or one of its checkpoints), where that is given.

    Raises:
        UserError: no data, a name taken by other settings or by a pretrain that runs, a request that can never be
            placed, or a checkpoint that is gone.
    """
    require(settings.runtime.tracker)
    manifests = [load_manifest(url) for url in data]
    root = storage.place(storage_url) / name
    before = run.begun(root, resume_from)
    version = run.SCHEMA_VERSION if before is None else before.version
    science = settings.science if before is None else before.meaning(settings.science)
    settings = replace(settings, science=science)
    plan = make_plan(manifests, science.splits, science.projections, science.seed, run.PLANS[version])
    total = science.total_batches(plan.rows) * science.global_batch
    # a tracker may keep its artifacts in a cloud
    connect(*data, storage_url, science.init, resume_from, clouds=settings.runtime.tracker is not None)
    placement = place_workers(settings.runtime)
    stored = ray_storage(storage_url)
    if resume_from is not None:
        resume_from = run.compatible(resume_from, settings.science, manifests)
    with locked(root / DRIVER, PRETRAIN) as lock:
        listed = _listed(root)
        _refuse_lost(root, listed)
        _remove_orphans(root, listed)
        release(root)
        record = run.open_or_create(root, settings, manifests, plan.rows, version)
        if before is not None and resume_from is not None:
            copy_start(before, root)
        for note in placement.notes:
            say(note)
        say(f"{plan.rows} images an epoch, {total} images in all; {settings.runtime.workers} workers; run {root.url}")
        for line in memory_lines(science.optim, total, science.global_batch):
            say(line)
        job = Job(settings, [m.url for m in manifests], plan, record.pixels, root.url, resume_from, total, new_board())
        config = RunConfig(name=name, **stored, **_patience(settings.runtime, job.board))
        _fit(job, config, placement.resources, lock)
    return record


def _patience(runtime: Runtime, board: Any) -> dict[str, Any]:
    """What a run survives, what it keeps, and what is said of it."""
    return {
        "callbacks": [Failures(board)],
        "failure_config": FailureConfig(max_failures=runtime.max_failures, max_preemption_failures=-1),
        "checkpoint_config": CheckpointConfig(num_to_keep=runtime.keep),
        "logging_config": LoggingConfig(log_level="ERROR"),
    }


def _fit(job: Job, config: RunConfig, resources: dict[str, float], lock: Lock) -> None:
    """Train to the end, and show how far it is.

    Raises:
        UserError: a worker met a user's mistake, training diverged, the same error came again and again, or another
            driver took the lock.
    """
    runtime = job.settings.runtime
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if runtime.gpu else "gloo", timeout_s=300),
        scaling_config=_scaling(runtime, resources),
        run_config=config,
    )
    with following(job.board, job.total, lock):
        try:
            trainer.fit()
        except WorkerGroupError as error:
            rank, failed = to_blame(error.worker_failures, 0)
            raise UserError(
                f"workers failed more often than --max-failures {runtime.max_failures}, last worker {rank}: {failed}; "
                "the same command goes on from the newest checkpoint"
            ) from None
        except Exception as error:
            told = user_error(error)
            if told is None:
                raise
            raise told from None


def train_loop(config: dict[str, Any]) -> None:
    """What Ray Train starts. The models, and timm with them, are imported where they are needed: in the worker."""
    from chexworld_ray.runtime.worker import work

    work(config["job"])


def _scaling(runtime: Runtime, resources: dict[str, float]) -> ScalingConfig:
    least, most = runtime.least_workers, runtime.most_workers
    return ScalingConfig(
        num_workers=most if least == most else (least, most),
        use_gpu=runtime.gpu,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=runtime.resize_seconds,
    )


def _refuse_lost(root: Place, listed: set[str]) -> None:
    """Ray refuses to start where a checkpoint that its list names is gone; say it in one line, with the way on.

    Raises:
        UserError: so it is.
    """
    lost = sorted(listed - {child.name for child in storage.children(root)})
    if lost:
        raise UserError(
            f"{root.url}: {', '.join(lost)} is gone, though Ray's list ({RAY_LIST}) names it; go on from what is left "
            f"under another name: --name {root.name}-2 --resume-from {root.url}"
        )


def _listed(root: Place) -> set[str]:
    """Names of the checkpoints that Ray keeps, and removes when there are more than it should keep.

    Ray writes its list in place: a kill or a full disk may cut it short, and Ray would never start again. It goes then;
    what is whole, each checkpoint tells itself.
    """
    file = root / RAY_LIST
    if not storage.exists(file):
        return set()
    try:
        record = json.loads(storage.fetch(file))
    except (ValueError, RecursionError):
        say(f"{file.url} was cut short, and is removed: a new one comes with the next checkpoint")
        storage.remove(file)
        return set()
    try:
        names = {str(entry["checkpoint_dir_name"]) for entry in record["checkpoint_results"]}
        latest = record.get("latest_checkpoint_result") or {"checkpoint_dir_name": next(iter(names), folder_name(0))}
        every = [*names, str(latest["checkpoint_dir_name"])]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{file.url}: damaged; remove it: what is whole, each checkpoint tells itself") from None
    for name in every:  # Ray removes such folders
        if position_of(name) is None:
            raise UserError(f"{file.url}: names {name[:80]!r}, which is no checkpoint; the run is damaged")
    return names


def _remove_orphans(root: Place, listed: set[str]) -> None:
    """Folders that were written, but not taken into Ray's list before a loss, are never removed by it.

    Only those that are older than all in the list: a newer one may be what the run goes on from.
    """
    oldest = min((position for name in listed if (position := position_of(name)) is not None), default=0)
    for stored in run.checkpoints(root):
        if stored.root.name not in listed and stored.position < oldest:
            storage.remove(stored.root)
