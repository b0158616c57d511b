"""Evaluation fanned out: features once per encoder with Ray Data, then a Tune trial per encoder, dataset and protocol.

Everything lands below `<run>/evaluations/<data version>/`; what is there already is not computed again, so an
interrupted evaluation goes on where it stopped.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import ray
import ray.data
from ray import tune

from chexworld_ray import storage
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import embed, feature_table, load_features
from chexworld_ray.evaluation.results import ResultRow, ScoredTrial, merge, read_results, result_rows, write_results
from chexworld_ray.evaluation.trial import Protocol, Splits, UncertainPolicy, run_trial
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.weights import encoder_bytes, read_encoder
from chexworld_ray.runtime.cluster import EVAL_SLOT, connect, say, total
from chexworld_ray.runtime.filesystem import ray_storage
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.parquet import read_table, write_table
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.run import Run

FOLDER = "evaluations"
ENCODER = "target.safetensors"
SKIPPED = b"skipped"  # in the metadata of a scores file: why some labels have none


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is evaluated, and how."""

    protocols: tuple[Protocol, ...] = ("knn", "linear")
    all_checkpoints: bool = False
    uncertain: UncertainPolicy = "ignore"
    splits: Splits = field(default_factory=Splits)


@dataclass(frozen=True)
class _Subject:
    """An encoder under evaluation: a copy of its file, out of reach of the run's retention."""

    run: Run
    images_seen: int
    folder: storage.Place
    random: bool = False

    @property
    def encoder(self) -> storage.Place:
        return self.folder / ENCODER

    @property
    def features(self) -> storage.Place:
        return self.folder / "features"


def evaluate(
    run_urls: Sequence[str], data_url: str, out_url: str | None, settings: EvaluationSettings
) -> list[ResultRow]:
    """Evaluate the newest (or every) checkpoint of each run beside its random start; write results.parquet.

    Several runs are seeds of one experiment: their differences to random are averaged. Results go to `out_url`, by
    default the first run.

    Raises:
        UserError: no such run or data, no checkpoint, or nothing that can be evaluated.
    """
    runs = [run.load_url(url) for url in run_urls]
    manifest = manifests.load(data_url)
    out = storage.place(out_url) if out_url else runs[0].root
    connect()
    subjects = [subject for one in runs for subject in _subjects(one, manifest, settings)]
    _extract(subjects, manifest, settings)
    trials = _trials(subjects, manifest, settings)
    rows = result_rows(trials)
    if not rows:
        raise UserError(
            f"{data_url}: no label has both classes in splits {settings.splits.train} and {settings.splits.test}"
        )
    write_results(out, merge(read_results(out), rows))
    return rows


def _subjects(one: Run, manifest: Manifest, settings: EvaluationSettings) -> list[_Subject]:
    """Random start and checkpoints, each with its encoder copied below the run's evaluations."""
    stored = run.checkpoints(one.root)
    if not stored:
        raise UserError(f"{one.root.url}: no checkpoint yet")
    home = one.root / FOLDER / manifest.data_version
    random = _Subject(one, 0, home / "random", random=True)
    if not storage.exists(random.encoder):
        model = one.science.model
        tensors = build_encoder(model, one.science.seed).vit.state_dict()
        storage.write_bytes(random.encoder, encoder_bytes(tensors, model, one.pixels, 0))
    subjects = [random]
    for candidate in reversed(stored):
        subject = _Subject(one, candidate.position, home / checkpoint.folder_name(candidate.position))
        if not storage.exists(subject.encoder):
            with run.local_copy(candidate) as (folder, damage):
                if damage:
                    say(f"{candidate.root.url} is passed over: {damage}")
                    continue
                storage.write_bytes(subject.encoder, (folder / ENCODER).read_bytes())
        subjects.append(subject)
        if not settings.all_checkpoints:
            break
    if len(subjects) == 1:
        raise UserError(f"{one.root.url}: no checkpoint is whole")
    return subjects


def _extract(subjects: list[_Subject], manifest: Manifest, settings: EvaluationSettings) -> None:
    """Features of every row group that has none yet, for every encoder, in one Ray Data pass."""
    splits = (settings.splits.train, settings.splits.val, settings.splits.test)
    labels = tuple(f"label_{name}" for name in manifest.labels)
    jobs: list[dict[str, Any]] = []
    for subject in subjects:
        done = {file.name for file in storage.children(subject.features)}
        for file in manifest.select(splits, ("frontal", "unknown")):
            for index in range(len(file.row_groups)):
                part = f"{file.path.removesuffix('.parquet')}-{index:03d}.parquet"
                if part not in done:
                    url = (manifest.root / file.path).url
                    jobs.append(
                        {
                            "encoder": subject.encoder.url,
                            "url": url,
                            "index": index,
                            "out": (subject.features / part).url,
                        }
                    )
    if not jobs:
        return
    say(f"features: {len(jobs)} row groups of {len(subjects)} encoders")

    def extract(block: pa.Table) -> pa.Table:
        for job in block.to_pylist():
            _extract_one(job, labels)
        return block.select(["index"])

    blocks = [pa.Table.from_pylist([job]) for job in jobs]
    for _ in ray.data.from_arrow(blocks).map_batches(extract, batch_size=None, batch_format="pyarrow").iter_rows():
        pass


@lru_cache(maxsize=2)
def _open_encoder(url: str) -> Any:
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder, info = read_encoder(storage.fetch(storage.place(url)), url)
    return encoder.to(device), info, device


def _extract_one(job: dict[str, Any], labels: tuple[str, ...]) -> None:
    columns = ("image_id", "dataset", "patient_id", "split", "image", *labels)
    rows = read_row_group(job["url"], job["index"], columns)
    encoder, info, device = _open_encoder(job["encoder"])
    features_ND = embed(encoder, info, rows["image"].to_pylist(), device)
    write_table(storage.place(job["out"]), feature_table(rows, features_ND))


def _trials(subjects: list[_Subject], manifest: Manifest, settings: EvaluationSettings) -> list[ScoredTrial]:
    """Run what is not scored yet under Tune, then read all scores."""
    datasets = sorted({name for file in manifest.files for name in file.datasets})
    policy = f"{settings.uncertain}-{'-'.join(asdict(settings.splits).values())}"
    wanted = [
        (s, dataset, protocol, s.folder / f"scores-{protocol}-{policy}" / f"{quote(dataset, safe='')}.parquet")
        for s in subjects
        for dataset in datasets
        for protocol in settings.protocols
    ]
    due = [
        {"features": s.features.url, "dataset": dataset, "protocol": protocol, "out": file.url}
        for s, dataset, protocol, file in wanted
        if not storage.exists(file)
    ]
    if due:
        _tune(due, settings, subjects[0].run.root / FOLDER)
    tables = [read_table(file) for *_, file in wanted]
    notes = {
        f"{dataset}: {line}"
        for (_, dataset, _, _), table in zip(wanted, tables, strict=True)
        for line in json.loads((table.schema.metadata or {}).get(SKIPPED, b"[]"))
    }
    for note in sorted(notes):
        say(note)
    return [
        ScoredTrial(s.run.root.name, s.images_seen, s.random, s.run.science.seed, dataset, protocol, table)
        for (s, dataset, protocol, _), table in zip(wanted, tables, strict=True)
    ]


def _tune(due: list[dict[str, str]], settings: EvaluationSettings, home: storage.Place) -> None:
    resources = {"cpu": 1.0} | ({EVAL_SLOT: 1.0} if total(EVAL_SLOT) > 0 else {})
    slots = int(total(EVAL_SLOT) or total("CPU")) or 1
    say(f"{len(due)} trials, {min(slots, len(due))} at a time")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, settings=settings), resources),
        param_space={"job": tune.grid_search(due)},
        tune_config=tune.TuneConfig(max_concurrent_trials=min(slots, len(due)), reuse_actors=True),
        run_config=tune.RunConfig(name="tune", verbose=0, **ray_storage(home.url)),
    )
    results = tuner.fit()
    if results.errors:
        raise RuntimeError(f"{len(results.errors)} of {len(due)} trials failed, first: {results.errors[0]}")


def _trial(config: dict[str, Any], settings: EvaluationSettings) -> None:
    job = config["job"]
    features = load_features(storage.place(job["features"]), job["dataset"])
    scores, skipped = run_trial(features, job["protocol"], settings.uncertain, settings.splits)
    write_table(storage.place(job["out"]), scores.replace_schema_metadata({SKIPPED: json.dumps(skipped)}))
    tune.report({"scores": scores.num_rows})
