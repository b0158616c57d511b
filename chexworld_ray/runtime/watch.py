"""Evaluation beside pretraining: a run's checkpoints as they come, on slots of their own, until the run has ended."""

import time

from chexworld_ray import storage
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import ResultRow, headlines
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.reports.html import write_report
from chexworld_ray.runtime.cluster import connect, say
from chexworld_ray.runtime.evaluate import add_results, tasks_of
from chexworld_ray.runtime.subjects import checkpoint_subject, floors
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.training import run
from chexworld_ray.training.checkpoint_files import MANIFEST
from chexworld_ray.training.log import write_events
from chexworld_ray.training.run import Run, StoredCheckpoint

PAUSE = 5.0  # s between two looks
PATIENCE = 600.0  # s until there must be a run
QUIET = 1800.0  # s without a checkpoint after which that is said, each time anew


def watch(run_url: str, data_url: str, every: int, settings: EvaluationSettings) -> list[ResultRow]:
    """Evaluate each `every`-th checkpoint of a run that trains, and its last; the rows of all of them.

    A checkpoint is copied before it is read, so that retention may remove it. Results, TensorBoard events and the
    report of the run are brought up to date after each. Where evaluation is slower than training, checkpoints in
    between are left out.

    Raises:
        UserError: no run appears, or nothing can be evaluated.
    """
    manifest = manifests.load(data_url)
    one = _appeared(run_url)
    connect(one.root.url, manifest.root.url)
    rows: dict[int, list[ResultRow]] = {}
    say(f"watching {one.root.url}: {one.total} images in all")
    told = time.monotonic()
    while max(rows, default=-1) < one.total:
        fresh = [stored for stored in _committed(one) if stored.position > max(rows, default=0)]
        if fresh and (len(fresh) >= every or fresh[-1].position >= one.total):
            rows[fresh[-1].position] = _evaluate(one, fresh[-1], manifest, settings)
            told = time.monotonic()
        elif time.monotonic() - told > QUIET:
            told = time.monotonic()
            say(
                f"nothing new for {QUIET / 60:.0f} minutes; {one.root.name} is waited for until it has seen all its "
                "images: where it will not go on, stop this (Ctrl-C, or `ray job stop`); what is evaluated stays"
            )
        else:
            time.sleep(PAUSE)
    return [row for position in sorted(rows) for row in rows[position]]


def _appeared(url: str) -> Run:
    end = time.monotonic() + PATIENCE
    while not storage.exists(storage.place(url) / run.CONFIG):
        if time.monotonic() > end:
            raise UserError(f"--run {url}: no run has appeared there for {PATIENCE:.0f} s")
        time.sleep(PAUSE)
    return run.load_url(url)


def _committed(one: Run) -> list[StoredCheckpoint]:
    """Checkpoints whose last file is there, oldest first."""
    return [stored for stored in run.checkpoints(one.root) if storage.exists(stored.root / MANIFEST)]


def _evaluate(one: Run, stored: StoredCheckpoint, manifest: Manifest, settings: EvaluationSettings) -> list[ResultRow]:
    """Its rows; none where it is not whole, or was removed before it was copied."""
    began = time.monotonic()
    subject = checkpoint_subject(one, stored, manifest, settings.image_size)
    if subject is None:
        return []
    before = floors(one, manifest, settings.image_size)
    rows = add_results([*before, subject], tasks_of(manifest, settings), manifest, settings, one.root)
    shown = [row for row in headlines(rows) if row.encoder == f"{one.root.name}@{stored.position}"]
    write_events(one.root, {f"evaluation/{_tag(row)}": row.value for row in shown}, stored.position)
    write_report(one, None, [manifest.root.url])
    values = ", ".join(f"{_tag(row)} {row.value:.3f}" for row in shown[:3])
    say(f"{stored.position} images seen: {values}{', …' if len(shown) > 3 else ''} ({time.monotonic() - began:.0f} s)")
    return rows


def _tag(row: ResultRow) -> str:
    share = "" if row.fraction == 1.0 else f"-{100 * row.fraction:g}%"
    return f"{row.task}/{row.protocol}{share}/{row.metric}"
