"""Ray Train wiring: the driver starts workers and shows progress; each worker runs `training.loop.train`."""

import os
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from chexworld_ray import storage
from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.board import Board
from chexworld_ray.runtime.cluster import connect, place_workers, say
from chexworld_ray.runtime.filesystem import ray_storage
from chexworld_ray.runtime.progress import following
from chexworld_ray.runtime.stream import StreamSettings, cropped_shares
from chexworld_ray.shards.manifest import load as load_manifest
from chexworld_ray.shards.plan import Plan, make_plan
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.initial import start_from
from chexworld_ray.training.log import RunLog
from chexworld_ray.training.loop import train
from chexworld_ray.training.parallel import prepare
from chexworld_ray.training.probe import OnlineProbe, read_probe_sets
from chexworld_ray.training.state import TrainState, start_state


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    settings: RunSettings
    data: list[str]
    plan: Plan
    pixels: tuple[float, float]
    run_url: str
    total: int
    board: Any


def pretrain(settings: RunSettings, data: list[str], storage_url: str, name: str) -> run.Run:
    """Train the run `name` below `storage_url` to its end, going on from its newest whole checkpoint.

    Raises:
        UserError: no data, a name taken by other settings, or a request that can never be placed.
    """
    manifests = [load_manifest(url) for url in data]
    science = settings.science
    plan = make_plan(manifests, science.splits, science.projections, science.seed)
    total = science.total_batches(plan.rows) * science.global_batch
    root = storage.place(storage_url) / name
    connect()
    placement = place_workers(settings.runtime)
    record = run.open_or_create(root, settings, manifests, plan.rows)
    for note in placement.notes:
        say(note)
    say(f"{plan.rows} images an epoch, {total} images in all; {settings.runtime.workers} workers; run {root.url}")
    board = Board.remote()
    job = Job(settings, [m.url for m in manifests], plan, record.pixels, root.url, total, board)
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if settings.runtime.gpu else "gloo", timeout_s=300),
        scaling_config=ScalingConfig(
            num_workers=settings.runtime.workers,
            use_gpu=settings.runtime.gpu,
            resources_per_worker=placement.resources,
        ),
        run_config=RunConfig(
            name=name,
            **ray_storage(storage_url),
            failure_config=FailureConfig(max_failures=settings.runtime.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=settings.runtime.keep),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    with following(board, total) as display:
        trainer.fit()
    if display.fatal is not None:
        raise UserError(display.fatal)
    return record


def _train_loop(config: dict[str, Any]) -> None:
    """One worker. What no new start would cure is told to the driver instead of raised, for Ray would start again."""
    job: Job = config["job"]
    try:
        _train(job)
    except UserError as error:
        if ray.train.get_context().get_world_rank() == 0:
            ray.get(job.board.push.remote({"fatal": str(error)}))


def _train(job: Job) -> None:
    """From the newest whole checkpoint to the end of the run."""
    science, runtime = job.settings.science, job.settings.runtime
    context = ray.train.get_context()
    workers, rank = context.get_world_size(), context.get_world_rank()
    device = get_device()
    assert isinstance(device, torch.device)
    cores = len(os.sched_getaffinity(0))  # Ray tells torch of one core only
    torch.set_num_threads(runtime.torch_threads or max(1, cores // context.get_local_world_size()))
    state = start_state(science, job.total, device)
    prepare(state, runtime, science.optim, workers)
    _restore(job, state, rank)
    attempt = broadcast_from_rank_zero(uuid.uuid4().hex)
    stream = StreamSettings(
        job.plan, science, job.total, runtime.segment_images, runtime.decode_threads, workers, rank, attempt
    )
    shares = cropped_shares(stream, state.position, job.board)
    facts = {"plan": job.plan.digest, "workers": workers, "seed": science.seed}
    if rank != 0:

        def give(state: TrainState) -> None:
            if runtime.sharding == "fsdp":
                checkpoint.save(state, None, science.model, job.pixels, facts)
            _report(None, None)

        train(state, shares, science, runtime, job.pixels, workers, lambda _: None, give)
        return
    with RunLog(storage.place(job.run_url), state.position, runtime.tensorboard) as log:

        def write(record: dict[str, Any]) -> None:
            log.write(record)
            job.board.push.remote(record)

        def save(state: TrainState) -> None:
            folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
            checkpoint.save(state, folder, science.model, job.pixels, facts)
            log.flush()
            _report(folder, state.position)

        train(state, shares, science, runtime, job.pixels, workers, write, save, _probe(job))


def _probe(job: Job) -> OnlineProbe | None:
    """The online probe of rank 0. A sharded target can't be looked at by one worker alone."""
    science, runtime = job.settings.science, job.settings.runtime
    if not runtime.probe_images or runtime.sharding == "fsdp":
        return None
    manifests = [load_manifest(url) for url in job.data]
    sets = read_probe_sets(manifests, science.model.image_size, runtime.probe_images)
    return OnlineProbe(sets, science.model, job.pixels) if sets else None


def _report(folder: Path | None, position: int | None) -> None:
    """A barrier of all ranks; rank 0 hands in its folder, which is uploaded beside the next steps and then removed."""
    if folder is None or position is None:
        ray.train.report({}, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
        return
    ray.train.report(
        {"images_seen": position},
        checkpoint=Checkpoint.from_directory(str(folder)),
        checkpoint_dir_name=checkpoint.folder_name(position),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
    )


def _restore(job: Job, state: TrainState, rank: int) -> None:
    """Load the newest checkpoint that is whole; rank 0 chooses, so that all ranks load the same."""
    chosen = broadcast_from_rank_zero(_newest_whole(job) if rank == 0 else None)
    if chosen is None:
        if job.settings.science.init is not None:
            start_from(state, job.settings.science, job.pixels)
        return
    with run.local_copy(run.StoredCheckpoint(storage.place(chosen), 0)) as (folder, reason):
        if reason:
            raise RuntimeError(f"{chosen} was whole a moment ago, and now {reason}")
        facts = checkpoint.load(state, folder)
    if facts["plan"] != job.plan.digest:
        raise RuntimeError(f"{chosen} follows plan {facts['plan']}, this run {job.plan.digest}: the data changed")
    if rank == 0:
        job.board.push.remote({"message": f"going on from {state.position} images seen ({chosen})"})


def _newest_whole(job: Job) -> str | None:
    for stored in reversed(run.checkpoints(storage.place(job.run_url))):
        with run.local_copy(stored) as (_, reason):
            if reason is None:
                return stored.root.url
        job.board.push.remote({"message": f"{stored.root.url} is passed over: {reason}"})
    return None
