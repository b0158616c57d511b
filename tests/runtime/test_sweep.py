"""Sweeps: variants and seeds trained and compared, and what was done before a kill is not done again."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scores import scored
from test_cluster import chexworld, wait_until

from chexworld_ray.cli import main
from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results_file import read_results
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.recipes import ABLATIONS, demo, variants
from chexworld_ray.runtime.subjects import RANDOM
from chexworld_ray.runtime.sweep import DRIVER, _ended, _of_variants, _starts, sweep
from chexworld_ray.shards.lock import SWEEP, locked
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.storage import children, place, write_json
from chexworld_ray.training import run
from chexworld_ray.training.checkpoint_files import MANIFEST, folder_name
from chexworld_ray.training.run import open_or_create

KINDS = ["chexworld", "no_action", "local"]
SMALL = [
    *(
        "--recipe",
        "demo",
        "--model.image-size",
        "48",
        "--model.width",
        "24",
        "--model.depth",
        "1",
        "--model.heads",
        "2",
    ),
    *("--model.predictor-width", "24", "--model.predictor-depth", "1", "--global-batch", "10", "--epochs", "1"),
    *("--probe-images", "0", "--no-tensorboard"),
]


def test_variants_are_the_rows_of_table_3_and_names_are_checked() -> None:
    found = variants(["ablations"], demo())
    assert list(found) == list(ABLATIONS)
    assert {settings.science.objective.kind for settings in found.values()} == set(ABLATIONS)
    assert {settings.science.epochs for settings in found.values()} == {demo().science.epochs}
    for names, words in ((["nothing"], "neither"), (["local", "local"], "twice")):
        with pytest.raises(UserError, match=words):
            variants(names, demo())


def test_one_variant_is_no_sweep(phantom_set: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two variants"):
        sweep(variants(["local"], demo()), [phantom_set.root.url], str(tmp_path), 1, 1, EvaluationSettings())


def test_data_without_labels_are_refused_before_any_training(
    phantom_folder: Path, write_set: Callable[[Source, Path, WriteSettings], Manifest], tmp_path: Path
) -> None:
    bare = write_set(read_source(str(phantom_folder)), tmp_path / "bare", WriteSettings())
    chosen, where = variants(["local", "chexworld"], demo()), tmp_path / "sweep"
    with pytest.raises(UserError, match="ingest --labels"):
        sweep(chosen, [bare.root.url], str(where), 1, 1, EvaluationSettings())
    assert not where.exists()


def test_a_second_sweep_of_the_name_ends_in_one_line(phantom_set: Manifest, tmp_path: Path) -> None:
    chosen = variants(["local", "chexworld"], demo())
    with locked(folder := place(str(tmp_path)) / DRIVER, SWEEP):
        with pytest.raises(
            UserError, match=r"another sweep writes there \(process \d+.*choose another --name"
        ) as caught:
            sweep(chosen, [phantom_set.root.url], str(tmp_path), 1, 1, EvaluationSettings())
        assert "\n" not in str(caught.value)
        assert children(folder), "the first goes on"
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_can_not_be_used_is_told_before_the_first_run(
    phantom_set: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is an extra")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    start = replace(demo(), runtime=replace(demo().runtime, tracker="mlflow"))
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI is not set"):
        sweep(
            variants(["local", "chexworld"], start), [phantom_set.root.url], str(tmp_path), 1, 1, EvaluationSettings()
        )


def test_a_run_that_was_asked_for_with_lists_is_at_its_end(
    phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    listed = replace(tiny, science=replace(tiny.science, splits=["train"]))  # pyright: ignore[reportArgumentType]
    one = open_or_create(place(str(tmp_path / "run")), listed, [phantom_set], 60)
    write_json(one.root / folder_name(one.total) / MANIFEST, {})
    assert _ended(str(tmp_path), "run", listed)
    assert not _ended(str(tmp_path), "run", replace(tiny, science=replace(tiny.science, seed=9)))


def test_variants_that_start_from_other_weights_have_a_floor_of_their_own(
    phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    """Weights of a seed and a model, whatever the objective; evaluated once."""
    larger = replace(tiny.science, model=replace(tiny.science.model, depth=3))
    kinds = {
        name: replace(tiny.science, objective=replace(tiny.science.objective, kind=name)) for name in ABLATIONS[:2]
    }
    wanted = {(name, seed): f"{name}-{seed}" for name in (*kinds, "larger") for seed in range(2)}
    runs = {
        (name, seed): open_or_create(
            place(str(tmp_path / called)),
            replace(tiny, science=replace((kinds | {"larger": larger})[name], seed=seed)),
            [phantom_set],
            60,
        )
        for (name, seed), called in wanted.items()
    }
    starts = _starts(runs, phantom_set, None)
    assert len({subject.name for subject in starts.values()}) == 4
    some = scored("x", 0, 1.0)
    trials = [replace(some, run=subject.name, kind="random") for subject in dict.fromkeys(starts.values())]
    trials += [replace(some, run=called) for called in wanted.values()]
    found = {one.name: one for one in _of_variants(wanted, starts, trials)}
    assert list(found) == [*kinds, "larger"]
    floors = {name: one.floor.name for name, one in found.items() if one.floor is not None}
    assert floors == {**dict.fromkeys(kinds, "random of chexworld, local"), "larger": "random of larger"}
    assert all(len(one.trials) == 2 and one.floor and len(one.floor.trials) == 2 for one in found.values())
    alike = {key: called for key, called in wanted.items() if key[0] != "larger"}
    assert {one.floor.name for one in _of_variants(alike, starts, trials) if one.floor} == {"random"}


def words(data: Manifest, storage: Path) -> list[str]:
    return [
        *("sweep", *KINDS, "--data", data.root.url, "--storage", str(storage), "--name", "s"),
        *("--seeds", "1", "--parallel", "2", "--evaluation.protocol", "knn", *SMALL),
    ]


def table_of_all(folder: Path, printed: str) -> None:
    """Rows, verdicts and a page of all variants, and of what they all were before training."""
    rows = read_results(place(str(folder / "s")))
    first, start = ("no_action - chexworld", "local - chexworld"), (f"{kind} - random" for kind in KINDS)
    assert {row.encoder for row in rows} == {*KINDS, "random", *first, *start}
    floors = list((folder / "s").glob(f"*-0/evaluations/*/{RANDOM}/scores"))
    assert len(floors) == 1, "all started from the same weights, which are evaluated once"
    assert all(row.p_holm is not None for row in rows if "difference" in row.metric)
    page = (folder / "s" / "comparison.html").read_text()
    assert all(f"{kind}-0" in page for kind in KINDS)
    for kind in KINDS[1:]:
        assert re.search(rf"{kind} +0\.\d+ .*(undecided|better|worse).*(undecided|better|worse)", printed)
    assert re.search(r"random +0\.\d+ ", printed)


@pytest.mark.slow
def test_a_sweep_trains_two_at_a_time_what_is_not_done_and_ends_in_a_table(
    ray_here: None, phantom_set: Manifest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One run is complete, as a sweep that was killed has left it."""
    only = ["pretrain", *("--data", phantom_set.root.url, "--storage", str(tmp_path / "s"), "--name", "chexworld-0")]
    assert main([*only, *SMALL]) == 0
    before = (tmp_path / "s" / "chexworld-0" / "metrics.jsonl").stat().st_mtime
    capfd.readouterr()
    assert main(words(phantom_set, tmp_path)) == 0
    told = capfd.readouterr()
    assert "chexworld-0: trained already" in told.err
    assert (tmp_path / "s" / "chexworld-0" / "metrics.jsonl").stat().st_mtime == before
    table_of_all(tmp_path, told.out)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_killed_sweep_goes_on(phantom_set: Manifest, tmp_path: Path) -> None:
    """The third run starts when one of the first two has ended; that one is not trained again."""
    command = words(phantom_set, tmp_path)
    first = subprocess.Popen([sys.executable, "-m", "chexworld_ray", *command], start_new_session=True)
    wait_until((tmp_path / "s" / "local-0" / "config.json").exists, "the third run")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    ended = [kind for kind in KINDS[:2] if done(tmp_path, kind)]
    assert ended
    before = {kind: (tmp_path / "s" / f"{kind}-0" / "metrics.jsonl").stat().st_mtime for kind in ended}
    again = chexworld(*command)
    for kind in ended:
        assert f"{kind}-0: trained already" in again.stderr
        assert (tmp_path / "s" / f"{kind}-0" / "metrics.jsonl").stat().st_mtime == before[kind]
    table_of_all(tmp_path, again.stdout)


def done(folder: Path, kind: str) -> bool:
    """Whether a run has its last checkpoint."""
    one = run.load_url(str(folder / "s" / f"{kind}-0"))
    return any(stored.position >= one.total for stored in run.checkpoints(one.root))
