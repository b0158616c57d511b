"""One training worker: from the newest whole checkpoint to the end of the run, with `training.loop.train`."""

import os
import uuid
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device

from chexworld_ray import storage
from chexworld_ray.config import to_dict
from chexworld_ray.errors import UserError
from chexworld_ray.models.device import precision_on
from chexworld_ray.runtime.failures import failing_at
from chexworld_ray.runtime.job import Job
from chexworld_ray.runtime.patience import patiently
from chexworld_ray.runtime.reservation import remember
from chexworld_ray.runtime.saving import Notices, Saver
from chexworld_ray.runtime.stream import StreamSettings, cropped_shares
from chexworld_ray.shards.manifest import load as load_manifest
from chexworld_ray.storage import StorageError
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.best import KeepBest
from chexworld_ray.training.initial import begin
from chexworld_ray.training.log import RunLog
from chexworld_ray.training.loop import Callbacks, train
from chexworld_ray.training.parallel import prepare
from chexworld_ray.training.probe import OnlineProbe, read_probe_sets
from chexworld_ray.training.seen import Attempt, Seen
from chexworld_ray.training.start import START
from chexworld_ray.training.state import TrainState, start_state
from chexworld_ray.training.trackers import Tracking

T = TypeVar("T")
PATIENCE = 600.0  # s that a start waits for its storage before it gives up, and Ray starts it again


def work(job: Job) -> None:
    """A worker's life. What ends it, `runtime.failures` looks at.

    Raises:
        UserError: what no new start would cure, or a storage that is away.
        WorkerFailed: any other error.
    """
    with failing_at(lambda: None):
        _train(job)


def _train(job: Job) -> None:
    science, runtime = job.settings.science, job.settings.runtime
    context = ray.train.get_context()
    workers, rank = context.get_world_size(), context.get_world_rank()
    device = get_device()
    assert isinstance(device, torch.device)
    cores = len(os.sched_getaffinity(0))  # Ray tells torch of one core only
    torch.set_num_threads(runtime.torch_threads or max(1, cores // context.get_local_world_size()))
    state = start_state(science, job.total, device)
    prepare(state, runtime, science.optim, workers)
    start = _restore(job, state, rank, workers)
    attempt = Attempt(broadcast_from_rank_zero(uuid.uuid4().hex[:12]), start.attempt, state.position)
    seen = Seen(attempt.name, rank) if runtime.record_seen else None
    stream = StreamSettings(
        job.plan, science, job.total, runtime.segment_images, runtime.decode_threads, workers, rank, attempt.name
    )
    shares = cropped_shares(stream, state.position, job.board, seen)
    facts = {"plan": job.plan.digest, "workers": workers, "seed": science.seed, "attempt": attempt.name}
    first = rank == 0
    if first:
        _tell_precision(job, device)
        _patiently(job, lambda: remember(storage.place(job.run_url)))
    with _log(job, state.position) if first else nullcontext() as log:

        def write(record: dict[str, Any]) -> None:
            if log is not None:
                log.write(record)
                job.board.push.remote(record)

        saver = Saver(job, attempt, start.taken, facts, log, seen)
        callbacks = Callbacks(write, saver, Notices(), _probe(job) if first else None)
        with failing_at(lambda: state.position):
            try:
                train(state, shares, science, runtime, job.pixels, workers, callbacks)
            except UserError:
                saver.finish()  # where the first worker meets it, what it saves is whole before the run ends
                raise
        saver.finish()


def _tell_precision(job: Job, device: torch.device) -> None:
    if precision_on(device, job.settings.science.precision) != job.settings.science.precision:
        name = "GPU" if device.type == "cuda" else "CPU"
        job.board.push.remote({"message": f"this {name} does not compute in bf16: float32 is used instead"})


def _log(job: Job, position: int) -> RunLog:
    """Rank 0 writes the run's numbers down."""
    root, runtime = storage.place(job.run_url), job.settings.runtime
    tracker = None
    if runtime.tracker is not None:
        tracker = Tracking(
            runtime.tracker,
            root,
            to_dict(job.settings.science),
            lambda message: job.board.push.remote({"message": message}),
        )
    return RunLog(root, position, runtime.tensorboard, tracker)


def _probe(job: Job) -> OnlineProbe | None:
    """The online probe of rank 0. A sharded target can't be looked at by one worker alone."""
    science, runtime = job.settings.science, job.settings.runtime
    if not runtime.probe_images or runtime.sharding == "fsdp":
        return None
    manifests = [load_manifest(url) for url in job.data]
    sets = read_probe_sets(manifests, science.model.image_size, runtime.probe_images)
    if not sets:
        return None

    def say(message: str) -> None:
        job.board.push.remote({"message": message})

    keep = KeepBest(storage.place(job.run_url), science.model, job.pixels, say)
    return OnlineProbe(sets, science.model, job.pixels, keep)


class Start(NamedTuple):
    """What a start of the workers found."""

    taken: set[str]
    """Names of the run's checkpoints, for the first worker, which writes."""
    attempt: str
    """The start that wrote the checkpoint that this one goes on from; empty where there is none."""


def _restore(job: Job, state: TrainState, rank: int, workers: int) -> Start:
    """Load the newest checkpoint that is whole. All ranks read and check the same one at the same time, so that a start
    costs one read of it; which one, and whether it is whole, rank 0 says.

    Raises:
        UserError: the run that it goes on from has none that is whole.
    """
    candidates, taken = _patiently(job, lambda: _stored(job)) if rank == 0 else ([], set())
    following = iter(candidates)
    while (url := broadcast_from_rank_zero(next(following, None))) is not None:
        facts = _load(job, state, url, rank)
        if facts is not None:
            if rank == 0:
                counted = f"{workers} worker" + ("s" if workers > 1 else "")
                message = f"going on from {state.position} images seen with {counted} ({url})"
                job.board.push.remote({"message": message})
            return Start(taken, facts.get("attempt", ""))
    if job.resume_from is not None:
        raise UserError(f"--resume-from {job.resume_from}: no whole checkpoint there")
    if job.settings.science.init is not None:
        copy = begin(state, job.settings.science, job.pixels)
        if rank == 0:
            _patiently(job, lambda: checkpoint.write(copy, storage.place(job.run_url) / START))
    return Start(taken, "")


def _stored(job: Job) -> tuple[list[str], set[str]]:
    """URLs of the run's checkpoints and then of those that it goes on from, newest first; names of the run's own."""
    own = run.checkpoints(storage.place(job.run_url))
    others = run.checkpoints_at(job.resume_from) if job.resume_from is not None else []
    return [stored.root.url for stored in [*reversed(own), *reversed(others)]], {stored.root.name for stored in own}


def _load(job: Job, state: TrainState, url: str, rank: int) -> dict[str, Any] | None:
    """Put a checkpoint into `state`; its facts, or None where rank 0 finds that it is not whole."""
    stored = run.StoredCheckpoint(storage.place(url), 0)
    with ExitStack() as kept:

        def copied() -> tuple[Path, str | None]:
            return _patiently(job, lambda: kept.enter_context(run.local_copy(stored)))

        folder, reason = copied()
        judged = broadcast_from_rank_zero(reason or "")
        if judged:
            if rank == 0:
                job.board.push.remote({"message": f"{url} is passed over: {judged}"})
            return None
        if reason is not None:  # its last file came after this rank had looked, and before the first had
            folder, reason = copied()
        if reason is not None:
            raise RuntimeError(f"{url} is whole for the first worker, and here: {reason}")
        facts = checkpoint.load(state, folder)
    if facts["plan"] != job.plan.digest:
        raise UserError(
            f"{url} follows plan {facts['plan']}, this run {job.plan.digest}: the data changed; name the version "
            "of the data that it was trained on (--data …/manifest-NNNNN.json), or begin anew under another --name"
        )
    return facts


def _patiently(job: Job, read: Callable[[], T]) -> T:
    """Read again, after growing pauses, while the storage is away or the local disk full.

    Raises:
        StorageError: so it is for PATIENCE seconds.
    """

    def tell(error: StorageError, pause: float) -> None:
        job.board.push.remote({"message": f"{error}; the checkpoint is read again in {pause:.0f} s"})

    return patiently(read, tell, PATIENCE)
