"""Trials under Tune: a grid of jobs, each of which writes its scores; ASHA where settings are searched."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from chexworld_ray import storage
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import load_features, load_images
from chexworld_ray.evaluation.settings import EvaluationSettings, FinetuneSettings, GridSettings
from chexworld_ray.evaluation.trial import NEEDS, Scored, Trial, run_trial
from chexworld_ray.models.backbone import Backbone, Size, read_backbone
from chexworld_ray.models.device import keep_freed_memory
from chexworld_ray.runtime.cluster import evaluation_slot, evaluation_slots, say, total, user_error
from chexworld_ray.runtime.extraction import device
from chexworld_ray.runtime.filesystem import ray_storage
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.parquet import write_table

FACTS = b"facts"  # in the metadata of a scores file: images used, what was chosen, why some labels have no scores
RUNGS = 4  # a candidate is first compared with others after that part of its epochs, and after its warm-up


@dataclass(frozen=True)
class TrialJob:
    """What a trial needs, as URLs."""

    trial: Trial
    data: str
    encoder: str
    predictor: str | None
    inputs: str
    image_size: int | None
    out: str


def run_jobs(due: Sequence[TrialJob], settings: EvaluationSettings, home: storage.Place) -> None:
    """Run every job, as many at a time as there are slots (or else CPUs or GPUs).

    Raises:
        UserError: a trial met a user's mistake.
    """
    searched = [job for job in due if job.trial.protocol == "finetune"]
    if len(settings.grid.points(settings.finetune)) == 1:
        searched = []
    plain = [job for job in due if job not in searched]
    if plain:
        say(f"{len(plain)} trials, {min(_slots(plain), len(plain))} at a time")
        trainable = tune.with_parameters(_trial, settings=settings)
        _fit(trainable, {"job": tune.grid_search(plain)}, _slots(plain), _resources(plain), home)
    for job in searched:
        _search(job, settings, home)


def _resources(jobs: Sequence[TrialJob]) -> dict[str, float]:
    resources = {"cpu": 1.0} | evaluation_slot()
    trains = any(NEEDS[job.trial.protocol] != "features" for job in jobs)
    return resources | ({"gpu": 1.0} if trains and total("GPU") > 0 else {})


def _slots(jobs: Sequence[TrialJob]) -> int:
    return evaluation_slots("gpu" in _resources(jobs))


def _fit(
    trainable: Any,
    space: dict[str, Any],
    slots: int,
    resources: dict[str, float],
    home: storage.Place,
    scheduler: ASHAScheduler | None = None,
) -> tune.ResultGrid:
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=slots, reuse_actors=scheduler is None, scheduler=scheduler),
        run_config=tune.RunConfig(name="tune", verbose=0, **ray_storage(home.url)),
    )
    results = tuner.fit()
    if results.errors:
        told = user_error(results.errors[0])
        raise told or RuntimeError(f"{len(results.errors)} of {len(results)} trials failed: {results.errors[0]}")
    return results


def _search(job: TrialJob, settings: EvaluationSettings, home: storage.Place) -> None:
    """Candidates are stopped by ASHA on validation; the scores of the best that came to its end are kept."""
    points = settings.grid.points(settings.finetune)
    say(f"{job.trial.task.name}, {job.trial.name}: {len(points)} settings searched")
    epochs = settings.finetune.fit.epochs
    grace = max(epochs // RUNGS, math.ceil(settings.finetune.fit.warmup_epochs) + 2)
    longest = epochs + 1  # one that reaches `max_t` is stopped, before it has written its scores
    scheduler = ASHAScheduler("epoch", "quality", "max", max_t=longest, grace_period=min(grace, epochs))
    space = {"job": job, "point": tune.grid_search(list(range(len(points))))}
    trainable = tune.with_parameters(_candidate, settings=settings)
    results = _fit(trainable, space, _slots([job]), _resources([job]), home, scheduler)
    quality = {
        result.config["point"]: (result.metrics or {}).get("quality", math.nan) for result in results if result.config
    }
    files = {point: storage.place(_candidate_url(job, point)) for point in quality}
    ended = [point for point in sorted(quality) if storage.exists(files[point])]
    known = [point for point in ended if math.isfinite(quality[point])]
    if not known:
        say(f"{job.trial.task.name}: no validation images with both classes to choose settings on; the first are taken")
    best = max(known, key=lambda point: quality[point]) if known else ended[0]
    told = "; ".join(f"{_named(points[at])}: {quality[at]:.3f}" for at in sorted(quality))
    say(f"{job.trial.task.name}: on validation {told}; {len(points) - len(ended)} of {len(points)} stopped early")
    storage.write_bytes(storage.place(job.out), storage.fetch(files[best]))
    for file in files.values():
        if storage.exists(file):
            storage.remove(file)


def _named(point: FinetuneSettings) -> str:
    return f"lr {point.lr:g}, drop path {point.drop_path:g}, layer decay {point.layer_decay:g}"


def _candidate_url(job: TrialJob, point: int) -> str:
    return f"{job.out.removesuffix('.parquet')}.candidate-{point}"


def _candidate(config: dict[str, Any], settings: EvaluationSettings) -> None:
    job: TrialJob = config["job"]
    points = settings.grid.points(settings.finetune)
    own = points[config["point"]]
    best = float("-inf")

    def report(epoch: int, quality: float) -> None:
        nonlocal best
        best = max(best, quality) if math.isfinite(quality) else quality
        tune.report({"epoch": epoch, "quality": best})

    done = _run(job, replace(settings, finetune=own, grid=GridSettings()), report)
    searched = f"best of {len(points)} settings: {_named(own)}"
    facts = done.facts | {"chosen": f"{done.facts.get('chosen', '')}, {searched}"}
    _write(replace(done, facts=facts), _candidate_url(job, config["point"]))


def _trial(config: dict[str, Any], settings: EvaluationSettings) -> None:
    job: TrialJob = config["job"]
    done = _run(job, settings, None)
    _write(done, job.out)
    tune.report({"scores": done.scores.num_rows})


def _write(done: Scored, url: str) -> None:
    facts = json.dumps(done.facts | {"skipped": done.skipped})
    write_table(storage.place(url), done.scores.replace_schema_metadata({FACTS: facts}))


def facts_of(scores: pa.Table, file: storage.Place) -> dict[str, Any]:
    """What stands beside the scores in their file.

    Raises:
        UserError: it is damaged.
    """
    try:
        facts = json.loads((scores.schema.metadata or {})[FACTS])
        counts = [int(facts.get(name, 0)) for name in ("train", "val")]
        return facts | {"skipped": [str(line) for line in facts["skipped"]], "train": counts[0], "val": counts[1]}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{file.url}: damaged scores; remove the file, and evaluate again") from None


def _run(job: TrialJob, settings: EvaluationSettings, report: Any) -> Scored:
    keep_freed_memory()
    trial = job.trial
    if NEEDS[trial.protocol] == "images":
        manifest = manifests.load(job.data)
        organs = (trial.task.organs or manifest.masks) if trial.protocol == "segment" else ()
        parts = load_images(manifest, trial.task.dataset, settings.splits, organs)
    else:
        parts = load_features(storage.place(job.inputs), trial.task.dataset)

    def backbone(size: Size, drop_path: float) -> Backbone:
        predictor = None if job.predictor is None else storage.fetch(storage.place(job.predictor))
        size = size._replace(image=job.image_size)
        return read_backbone(storage.fetch(storage.place(job.encoder)), job.encoder, size, drop_path, predictor)

    return run_trial(parts, trial, settings, backbone, device(), report)
