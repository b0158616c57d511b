"""`chexworld sweep`: variants x seeds pretrained in parallel, then evaluated, ending in one table.

Each run is an ordinary one, elastic and resumable; a sweep that was killed goes on with what is missing.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from chexworld_ray import storage
from chexworld_ray.config import RunSettings, Runtime, difference, to_dict
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import ResultRow, ScoredTrial
from chexworld_ray.evaluation.results_file import write_results
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.evaluation.sweep import FLOOR, VariantTrials, floor_name, run_name, sweep_rows
from chexworld_ray.evaluation.tasks import learnable
from chexworld_ray.reports.comparison import write_sweep_report
from chexworld_ray.runtime.cluster import connect, say, total
from chexworld_ray.runtime.evaluate import score, tasks_of
from chexworld_ray.runtime.pretrain import pretrain
from chexworld_ray.runtime.subjects import Subject, newest_subject, random_subject
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.lock import SWEEP, Lock, locked
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.training import run
from chexworld_ray.training.run import Run
from chexworld_ray.training.trackers import require

DRIVER = "_sweep"  # the lock of the one that drives the sweep, while it does


def sweep(
    variants: dict[str, RunSettings],
    data: list[str],
    where: str,
    seeds: int,
    parallel: int,
    evaluation: EvaluationSettings,
) -> list[ResultRow]:
    """Train each variant with seeds 0, 1, … below `where`, evaluate the ends, write results.parquet and a report there.

    Means over seeds of each variant and of the same models with random weights (the floor), and paired differences from
    the first variant and from the floor. A run that fails is told, and the others go on.

    Raises:
        UserError: fewer than two variants, another sweep of the name runs, or a run failed; the same command goes on.
    """
    if len(variants) < 2 or seeds < 1 or parallel < 1:
        raise UserError("sweep: two variants or more, please, and at least one seed and one run at a time")
    for settings in variants.values():
        require(settings.runtime.tracker)
    manifest = manifests.load(data[0])
    _refuse_unlabelled(manifest, evaluation)
    out = storage.place(where)
    tracked = any(one.runtime.tracker is not None for one in variants.values())
    with locked(out / DRIVER, SWEEP) as lock:
        connect(*data, where, *(one.science.init for one in variants.values()), clouds=tracked)
        wanted = {(name, seed): run_name(name, seed) for name in variants for seed in range(seeds)}
        say(f"sweep {where}: {len(variants)} variants x {seeds} seeds, {parallel} at a time")
        _train(variants, data, where, wanted, parallel, lock)
        tasks = tasks_of(manifest, evaluation)
        runs = {key: run.load(out / called) for key, called in wanted.items()}
        ends = [newest_subject(one, manifest, evaluation.image_size) for one in runs.values()]
        starts = _starts(runs, manifest, evaluation.image_size)
        once = {subject.name: subject for subject in starts.values()}
        trials = score([*ends, *once.values()], tasks, manifest, evaluation, out)
        rows = sweep_rows(_of_variants(wanted, starts, trials))
        lock.check()
        write_results(out, rows)
        say(f"report: {write_sweep_report(out, allowed=data)}")
    return rows


def _train(
    variants: dict[str, RunSettings],
    data: list[str],
    where: str,
    wanted: dict[tuple[str, int], str],
    parallel: int,
    lock: Lock,
) -> None:
    """Train what is not trained yet; `wanted`: names of the runs by variant and seed.

    Raises:
        UserError: a run failed, or another sweep took over.
    """
    failed: list[str] = []

    def train(name: str, seed: int) -> None:
        settings = variants[name]
        own = RunSettings(science=replace(settings.science, seed=seed), runtime=_shared(settings.runtime, parallel))
        called = wanted[name, seed]
        if _ended(where, called, own):
            say(f"{called}: trained already")
            return
        lock.check()
        try:
            pretrain(own, data, where, called)
        except Exception as error:
            failed.append(f"{called}: {error}")
            say(f"{called} failed: {error}")

    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(lambda key: train(*key), wanted))
    if failed:
        raise UserError(f"{len(failed)} of {len(wanted)} runs failed, first {failed[0]}; the same command goes on")


Starts = dict[tuple[str, int], Subject]
"""Variant and seed → the run's model with random weights: where it started, unless it was told `--init`."""


def _starts(runs: dict[tuple[str, int], Run], manifest: Manifest, image_size: int | None) -> Starts:
    """Runs that started from the same weights share the first one's, so that these are evaluated once."""
    found: Starts = {}
    same: dict[tuple[object, ...], Subject] = {}
    for key, one in runs.items():
        subject = random_subject(one, manifest, image_size)
        found[key] = same.setdefault((subject.digest, one.science.model, one.science.seed), subject)
    return found


def _of_variants(
    wanted: dict[tuple[str, int], str], starts: Starts, trials: Sequence[ScoredTrial]
) -> list[VariantTrials]:
    """The trials of each variant's ends, and of its starts, which it shares with those that started alike."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(name for name, _ in wanted):
        groups.setdefault(tuple(starts[key].name for key in wanted if key[0] == name), []).append(name)
    found: dict[str, VariantTrials] = {}
    for names, members in groups.items():
        own = [trial for trial in trials if trial.kind == "random" and trial.run in names]
        floor = VariantTrials(FLOOR if len(groups) == 1 else floor_name(members), own)
        for name in members:
            runs = {called for key, called in wanted.items() if key[0] == name}
            ends = [trial for trial in trials if trial.kind != "random" and trial.run in runs]
            found[name] = VariantTrials(name, ends, floor)
    return [found[name] for name in dict.fromkeys(name for name, _ in wanted)]


def _refuse_unlabelled(manifest: Manifest, evaluation: EvaluationSettings) -> None:
    """Tell before hours of training what could not be evaluated after them; so are protocols that nobody knows."""
    splits = (evaluation.train_split, evaluation.test_split)
    if set(evaluation.protocols) == {"segment"} or learnable(manifest.counts()["labels"], splits):
        return
    raise UserError(
        f"{manifest.root.url}: no label has two values in both {' and '.join(splits)}, so that variants can't be "
        "compared; ingest --labels TABLE gives images labels"
    )


def _shared(runtime: Runtime, parallel: int) -> Runtime:
    """Workers of all runs at a time leave one CPU to reading, as those of a single run do."""
    if runtime.cpus_per_worker is not None or runtime.autoscaling:
        return runtime
    each = max(0.0, total("CPU") - 1.0) / (parallel * runtime.most_workers)
    return replace(runtime, cpus_per_worker=round(min(1.0, each), 2))


def _ended(where: str, name: str, settings: RunSettings) -> bool:
    """Whether a run with these settings has been trained to its end."""
    root = storage.place(where) / name
    if not storage.exists(root / run.CONFIG):
        return False
    found: Run = run.load(root)
    ended = any(stored.position >= found.total for stored in run.checkpoints(root))
    return ended and not difference(to_dict(found.science), to_dict(found.meaning(settings.science)))
