"""`chexworld sweep`: variants x seeds pretrained in parallel, then evaluated, ending in one table.

Each run is an ordinary one, elastic and resumable; a sweep that was killed goes on with what is missing.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from chexworld_ray import storage
from chexworld_ray.config import RunSettings, Runtime
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import ResultRow, write_results
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.evaluation.sweep import VariantTrials, sweep_rows
from chexworld_ray.runtime.cluster import connect, say, total
from chexworld_ray.runtime.evaluate import score, tasks_of
from chexworld_ray.runtime.pretrain import pretrain
from chexworld_ray.runtime.subjects import newest_subject
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.training import run
from chexworld_ray.training.run import Run


def sweep(
    variants: dict[str, RunSettings],
    data: list[str],
    where: str,
    seeds: int,
    parallel: int,
    evaluation: EvaluationSettings,
) -> list[ResultRow]:
    """Train each variant with seeds 0, 1, … below `where`, evaluate the ends, and write `where`/results.parquet.

    Means over seeds of each variant and paired differences from the first. A run that fails is told, and the others
    go on.

    Raises:
        UserError: fewer than two variants, or a run failed; the same command goes on.
    """
    if len(variants) < 2 or seeds < 1 or parallel < 1:
        raise UserError("sweep: two variants or more, please, and at least one seed and one run at a time")
    _ = evaluation.protocols  # a name that is not known is told before hours of training
    manifest = manifests.load(data[0])
    connect()
    wanted = {(name, seed): f"{name}-{seed}" for name in variants for seed in range(seeds)}
    say(f"sweep {where}: {len(variants)} variants x {seeds} seeds, {parallel} at a time")
    failed: list[str] = []

    def train(name: str, seed: int) -> None:
        settings = variants[name]
        own = RunSettings(science=replace(settings.science, seed=seed), runtime=_shared(settings.runtime, parallel))
        called = wanted[name, seed]
        if _ended(where, called, own):
            say(f"{called}: trained already")
            return
        try:
            pretrain(own, data, where, called)
        except Exception as error:
            failed.append(f"{called}: {error}")
            say(f"{called} failed: {error}")

    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(lambda key: train(*key), wanted))
    if failed:
        raise UserError(f"{len(failed)} of {len(wanted)} runs failed, first {failed[0]}; the same command goes on")
    out = storage.place(where)
    tasks = tasks_of(manifest, evaluation)
    subjects = [newest_subject(run.load(out / called), manifest, evaluation.image_size) for called in wanted.values()]
    variant_of = {called: name for (name, _), called in wanted.items()}
    trials = score(subjects, tasks, manifest, evaluation, out)
    rows = sweep_rows([VariantTrials(name, [t for t in trials if variant_of[t.run] == name]) for name in variants])
    if not rows:
        raise UserError(f"{data[0]}: no label has both classes in {evaluation.train_split} and {evaluation.test_split}")
    write_results(out, rows)
    return rows


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
    return found.science == settings.science and any(stored.position >= found.total for stored in run.checkpoints(root))
