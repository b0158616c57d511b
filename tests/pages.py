"""Pages of scores and records that are known: of a run, a sweep with verdicts, and two runs side by side."""

from dataclasses import replace
from pathlib import Path

from scores import start, variant

from chexworld_ray.analysis.outcome import FOLDER, Outcome
from chexworld_ray.config import RunSettings, Science
from chexworld_ray.evaluation.results import result_rows
from chexworld_ray.evaluation.results_file import write_results
from chexworld_ray.evaluation.sweep import sweep_rows
from chexworld_ray.recipes import demo, variants
from chexworld_ray.reports.analyses import picture
from chexworld_ray.reports.comparison import write_page
from chexworld_ray.reports.html import write_report
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import place, write_bytes, write_json
from chexworld_ray.training.log import RunLog
from chexworld_ray.training.run import Run, open_or_create

RECORD = {
    "loss": 0.4,
    "target_rankme_centred": 9.0,
    "images_per_second": 30.0,
    "wait_fraction": 0.25,
    "workers": 2,
    "memory_gib": 1.5,
}


def trained(root: Path, science: Science, data: Manifest) -> Run:
    """A run's record with a training curve."""
    run = open_or_create(place(str(root)), replace(RunSettings(), science=science), [data], 64)
    with RunLog(run.root, 0, tensorboard=False) as log:
        for seen in (100, 200, 300):
            log.write(RECORD | {"images_seen": seen, "loss": 0.4 + science.seed / 10})
    return run


def sweep_page(folder: Path, data: Manifest) -> str:
    """Of three variants with three seeds: `first`, one that is worse and no better than the start, and one like it."""
    kinds = {"first": "chexworld", "poor": "local", "same": "no_action"}
    for name, kind in kinds.items():
        settings = variants([kind], demo())[kind]
        for seed in range(3):
            trained(folder / "s" / f"{name}-{seed}", replace(settings.science, seed=seed), data)
    floor = start(0.8)
    rows = sweep_rows([variant("first", 1.0, floor), variant("poor", 0.8, floor), variant("same", 1.0, floor)])
    write_results(place(str(folder / "s")), rows)
    return write_page([str(folder / "s")], None)


def page_of_two(folder: Path, data: Manifest) -> str:
    """Of runs `a`, which was evaluated twice, and `b`, which never was."""
    runs = [trained(folder / name, replace(Science(), seed=seed), data) for seed, name in enumerate(("a", "b"))]
    trials = [replace(trial, run="a") for trial in variant("a", 1.0).trials[:1]]
    write_results(runs[0].root, result_rows([*trials, *(replace(trial, images_seen=50) for trial in trials)]))
    return write_page([run.root.url for run in runs], str(folder / "both.html"))


def looked_into(root: Path, data: Manifest) -> Run:
    """A run with a curve, results and an analysis."""
    run = trained(root, Science(), data)
    write_results(run.root, result_rows(variant(root.name, 1.0).trials[:1]))
    outcome = Outcome("layout", "Layout", ["a", "b"], [["1", "2"]], "So far off.", {"trained": [0.1, 0.2]})
    write_json(run.root / FOLDER / "layout.json", outcome.record())
    write_bytes(run.root / FOLDER / "layout.png", picture(outcome))
    return run


def page_of_one(folder: Path, data: Manifest) -> str:
    """Of one run."""
    return write_report(looked_into(folder / "one", data), None)
