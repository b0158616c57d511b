"""Evaluation fanned out: features once per encoder, then a Tune trial per encoder, task, protocol, fraction and draw.

What is scored already is not computed again, so an interrupted evaluation goes on where it stopped.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

from chexworld_ray import storage
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation import results_file
from chexworld_ray.evaluation.dependence import scores_key
from chexworld_ray.evaluation.features import PROJECTIONS
from chexworld_ray.evaluation.results import ResultRow, ScoredTrial, result_rows
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.evaluation.tasks import Task, parse_tasks
from chexworld_ray.evaluation.trial import NEEDS, SCORES_SCHEMA, Trial
from chexworld_ray.runtime.cluster import connect, say
from chexworld_ray.runtime.extraction import extract
from chexworld_ray.runtime.subjects import FOLDER, PREDICTOR, Subject, foreign_subject, subjects_of
from chexworld_ray.runtime.trials import TrialJob, facts_of, run_jobs
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.parquet import read_table
from chexworld_ray.training import run


def evaluate(
    run_urls: Sequence[str],
    data_url: str,
    out_url: str | None,
    settings: EvaluationSettings,
    foreign: Sequence[str] = (),
) -> list[ResultRow]:
    """Evaluate the newest (or every) checkpoint of each run, its random start and foreign encoders.

    Several runs are seeds of one experiment: their differences are averaged. Results go to `out_url`, by default the
    first run.

    Raises:
        UserError: no such run, data, task or encoder, no checkpoint, or nothing that can be evaluated.
    """
    _ = settings.protocols  # a name that is not known is told at once
    runs = [run.load_url(url) for url in run_urls]
    manifest = manifests.load(data_url)
    if not runs and (out_url is None or not foreign):
        raise UserError("evaluate what? --run URL, or --encoder timm:NAME together with --out URL")
    out = storage.place(out_url) if out_url else runs[0].root
    tasks = tasks_of(manifest, settings)
    connect(manifest.root.url, out.url, *run_urls)
    every, size = settings.checkpoints == "all", settings.image_size
    subjects = [subject for one in runs for subject in subjects_of(one, manifest, size, every=every)]
    subjects += [foreign_subject(source, out, manifest, size) for source in foreign]
    return add_results(subjects, tasks, manifest, settings, out)


def tasks_of(manifest: Manifest, settings: EvaluationSettings) -> list[Task]:
    """The tasks asked for, on a data set."""
    datasets = sorted({name for file in manifest.files for name in file.datasets})
    return parse_tasks(settings.task, datasets, settings.uncertain)


def add_results(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    manifest: Manifest,
    settings: EvaluationSettings,
    out: storage.Place,
) -> list[ResultRow]:
    """Score what is not scored yet, and put the rows into the results.parquet of `out`.

    Raises:
        UserError: there is nothing that can be evaluated.
    """
    rows = result_rows(score(subjects, tasks, manifest, settings, out))
    results_file.add_results(out, rows)
    return rows


def score(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    manifest: Manifest,
    settings: EvaluationSettings,
    home: storage.Place,
) -> list[ScoredTrial]:
    """Scores of every trial, those that are not there yet computed under Tune.

    Raises:
        UserError: there is nothing that can be evaluated.
    """
    datasets = {task.dataset for task in tasks}
    files = [file for file in manifest.select(settings.splits, PROJECTIONS) if datasets & set(file.datasets)]
    needs = {NEEDS[protocol] for protocol in settings.protocols}
    for inputs in ("features", "tokens"):
        if inputs in needs:
            extract([subject.extraction(inputs) for subject in subjects], manifest, files)
    wanted = [
        (subject, trial, _file(subject, trial, settings)) for subject in subjects for trial in _trials(tasks, settings)
    ]
    due = [
        TrialJob(
            trial,
            manifest.url,
            subject.encoder.url,
            (subject.folder / PREDICTOR).url if _trains_predictor(subject, trial, settings) else None,
            subject.extraction("tokens" if NEEDS[trial.protocol] == "tokens" else "features").folder.url,
            subject.image_size,
            file.url,
        )
        for subject, trial, file in wanted
        if not storage.exists(file)
    ]
    run_jobs(due, settings, home / FOLDER)
    scored = []
    notes: set[str] = set()
    for subject, trial, file in wanted:
        table = read_table(file, SCORES_SCHEMA)
        facts = facts_of(table, file)
        notes |= {f"{trial.task.name}, {trial.name}: {line}" for line in facts["skipped"]}
        notes |= {f"{trial.task.name}: {trial.task.note}"} if trial.task.note else set()
        scored.append(_scored(subject, trial, table, facts))
    for note in sorted(notes):
        say(note)
    found = [trial for trial in scored if trial.scores.num_rows]
    if not found:
        raise UserError(
            f"{manifest.root.url}: no label has both classes (or a mask) in splits {settings.train_split} and "
            f"{settings.test_split}"
        )
    return found


def _scored(subject: Subject, trial: Trial, table: Any, facts: dict[str, Any]) -> ScoredTrial:
    return ScoredTrial(
        run=subject.name,
        images_seen=subject.images_seen,
        kind=subject.kind,
        seed=subject.seed,
        task=trial.task.name,
        protocol=trial.name,
        scores=table,
        fraction=trial.fraction,
        draw=trial.draw,
        train=facts.get("train", 0),
        val=facts.get("val", 0),
    )


def _trials(tasks: Sequence[Task], settings: EvaluationSettings) -> list[Trial]:
    """Trials of one encoder. With all of the labels there is nothing to draw for kNN and the linear probe."""
    trials = []
    for task, protocol, draw in product(tasks, settings.protocols, range(settings.draws)):
        if (protocol == "segment" and task.labels) or (protocol != "segment" and task.organs):
            continue
        if protocol == "fewshot":
            trials += [Trial(task=task, protocol=protocol, shots=shots, draw=draw) for shots in settings.shots]
            continue
        for fraction in settings.fractions:
            if draw == 0 or fraction < 1.0 or protocol not in ("knn", "linear"):
                trials.append(Trial(task=task, protocol=protocol, fraction=fraction, draw=draw))
    return trials


def _file(subject: Subject, trial: Trial, settings: EvaluationSettings) -> storage.Place:
    """Where a trial's scores are kept: its name tells all that they depend on."""
    predictor = subject.predictor_digest if _trains_predictor(subject, trial, settings) else None
    key = scores_key(trial, settings, subject.image_size, subject.digest, predictor)
    return subject.folder / "scores" / f"{trial.task.name.replace('/', '-')}-{trial.name}-{key}.parquet"


def _trains_predictor(subject: Subject, trial: Trial, settings: EvaluationSettings) -> bool:
    return trial.protocol == "finetune" and settings.finetune.predictor and subject.kind != "foreign"
