"""Pretraining, evaluation and the report, on the real chain."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import looked_at
from finished import copy_of
from straight import same_weights, straight

from chexworld_ray import load_encoder
from chexworld_ray.analysis.outcome import read_outcomes
from chexworld_ray.analysis.settings import AnalysisSettings
from chexworld_ray.benchmarks.chaos import count
from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results_file import read_results
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.reports.html import write_report
from chexworld_ray.runtime.analyze import analyze
from chexworld_ray.runtime.evaluate import evaluate
from chexworld_ray.runtime.pretrain import DRIVER, pretrain
from chexworld_ray.shards.lock import PRETRAIN, locked
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import make_plan
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.storage import place
from chexworld_ray.training import run
from chexworld_ray.training.run import Run
from chexworld_ray.training.seen import lineage


def metrics(record: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(record.root.path) / "metrics.jsonl").read_text().splitlines()]


def test_a_run_is_what_the_loop_computes_without_ray(one: Run, phantom_set: Manifest) -> None:
    """Bit for bit: Ray brings the images that are due, in their order, and nothing else."""
    lines, alone = metrics(one), straight(one, phantom_set)
    assert [line["images_seen"] for line in lines] == alone.column("images_seen")
    assert [line["loss"] for line in lines] == alone.column("loss")
    last = run.checkpoints(one.root)[-1]
    assert last.position == lines[-1]["images_seen"] == one.total
    assert same_weights(Path(last.root.path), alone.weights()) == []
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert list((Path(one.root.path) / "tensorboard").iterdir())


def test_a_run_and_its_curves_hold_no_name_of_a_patient_or_an_image(one: Run, phantom_set: Manifest) -> None:
    tables = [
        read_row_group((phantom_set.root / file.path).url, 0, ("patient_id", "image_id")) for file in phantom_set.files
    ]
    names = {str(name) for table in tables for column in table.columns for name in column.to_pylist()}
    assert len(names) > 50
    files = [file for file in Path(one.root.path).rglob("*") if file.is_file()]
    assert {file.parent.name for file in files} > {"tensorboard", "one"}
    assert not [(file, name) for file in files for name in names if name.encode() in file.read_bytes()]


@pytest.mark.slow
def test_evaluate_and_report(one: Run, phantom_set: Manifest) -> None:
    rows = evaluate([one.root.url], phantom_set.root.url, None, EvaluationSettings(protocol="knn"))
    assert {row.encoder for row in rows} >= {"one@random", f"one@{one.total}"}
    assert all(row.low <= row.value <= row.high for row in rows if row.positives >= 10)
    assert sorted(map(repr, read_results(one.root))) == sorted(map(repr, rows))
    page = Path(write_report(one, None)).read_text()
    assert "one@random" in page
    assert page.count("<svg") >= 1
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


@pytest.mark.slow
def test_analyses_are_kept_with_the_run_and_shown_in_its_report(one: Run) -> None:
    found = analyze(one.root.url, None, AnalysisSettings(images=3, candidates=6, decoder_steps=20))
    assert [outcome.name for outcome in found] == ["retrieval", "correspondence", "layout", "pictures", "capacity"]
    assert {outcome.title: outcome.rows for outcome, _ in read_outcomes(one.root)} == {
        outcome.title: outcome.rows for outcome in found
    }
    assert (Path(one.root.path) / "analyses" / "layout.png").read_bytes()[:4] == b"\x89PNG"
    page = Path(write_report(one, None)).read_text()
    assert all(outcome.title in page for outcome in found)
    with pytest.raises(UserError, match="no frontal images in split holdout"):
        analyze(one.root.url, None, AnalysisSettings(split="holdout"))


@pytest.mark.slow
def test_the_page_of_a_run_reads_well_in_a_browser(one: Run, tmp_path: Path) -> None:
    """With its results and analyses, where the tests above have run."""
    looked_at([Path(write_report(one, None))], tmp_path)


def test_a_name_of_other_settings_or_of_a_pretrain_that_runs_is_refused(
    one: Run, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    """And while a driver lives, no other one goes in."""
    copy = copy_of(one, tmp_path)
    with pytest.raises(UserError, match="another pretrain writes there"), locked(place(str(copy)) / DRIVER, PRETRAIN):
        pretrain(tiny, [phantom_set.root.url], str(tmp_path), "one")
    other = dataclasses.replace(tiny, science=dataclasses.replace(tiny.science, seed=7))
    with pytest.raises(UserError, match="seed: 0 -> 7"):
        pretrain(other, [phantom_set.root.url], str(tmp_path), "one")


@pytest.mark.slow
def test_a_checkpoint_that_is_gone_is_one_line_and_the_way_on_works(
    one: Run, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    """The older folder that Ray's list names goes; another run goes on from the newest, and has nothing left to do."""
    data = [phantom_set.root.url]
    root = run.load_url(str(copy_of(one, tmp_path))).root
    stored = run.checkpoints(root)
    shutil.rmtree(stored[0].root.path)
    with pytest.raises(UserError, match="--name one-2 --resume-from") as caught:
        pretrain(tiny, data, str(tmp_path), "one")
    assert "\n" not in str(caught.value)
    second = pretrain(tiny, data, str(tmp_path), "one-2", root.url)
    assert second.science == one.science
    other = dataclasses.replace(tiny, science=dataclasses.replace(tiny.science, seed=7))
    with pytest.raises(UserError, match="seed: 0 -> 7"):
        pretrain(other, data, str(tmp_path), "one-3", stored[-1].root.url)


@pytest.mark.slow
def test_two_workers_see_each_image_once_and_learn_what_one_does(two: Run, phantom_set: Manifest) -> None:
    """Three and four, which can't share a batch of ten evenly: `training/test_training.py` and `test_stream.py`."""
    alone = straight(two, phantom_set)
    assert [line["loss"] for line in metrics(two)] == pytest.approx(alone.column("loss"), rel=1e-3)
    last = run.checkpoints(two.root)[-1]
    state = json.loads((Path(last.root.path) / "state.json").read_text())
    seen = lineage(two.root, state["attempt"], last.position)
    plan = make_plan([phantom_set], two.science.splits, two.science.projections, two.science.seed)
    assert last.position == two.total
    assert count(plan, seen, two.total) == {"lost": 0, "repeated": 0, "misplaced": 0}
    assert set(seen["rank"].to_pylist()) == {0, 1}


def test_a_request_that_can_never_be_placed_is_one_line(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    for change, words in (
        ({"workers": "64"}, "64"),
        ({"cpus_per_worker": 99.0}, "99 CPU"),
        ({"gpu": True}, "GPU"),
    ):
        settings = dataclasses.replace(tiny, runtime=dataclasses.replace(tiny.runtime, **change))
        with pytest.raises(UserError, match=words) as caught:
            pretrain(settings, [phantom_set.root.url], str(tmp_path), "never")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "never").exists()


def test_storage_that_workers_can_not_see_is_refused(ray_here: None, phantom_set: Manifest, tiny: RunSettings) -> None:
    with pytest.raises(UserError, match="memory://"):
        pretrain(tiny, [phantom_set.root.url], "memory://runs", "one")


@pytest.mark.slow
def test_a_run_that_diverges_stops_with_one_line(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    """It is not started again: that would end in the same place."""
    optim = dataclasses.replace(tiny.science.optim, lr=1e30, warmup=0.0)
    settings = dataclasses.replace(
        tiny,
        science=dataclasses.replace(tiny.science, optim=optim),
        runtime=dataclasses.replace(tiny.runtime, max_skipped_in_row=4),
    )
    with pytest.raises(UserError, match="training diverged") as caught:
        pretrain(settings, [phantom_set.root.url], str(tmp_path), "diverged")
    assert "\n" not in str(caught.value)
    lines = [json.loads(line) for line in (tmp_path / "diverged" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["skipped_fraction"] == 1.0


@pytest.mark.slow
def test_sharded_workers_and_a_start_from_another_run(
    one: Run, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    """FSDP2 on two workers goes on from a run of one: its first loss is where the other's last was."""
    optim = dataclasses.replace(tiny.science.optim, lr=1e-6)
    science = dataclasses.replace(tiny.science, epochs=1, init=one.root.url, optim=optim)
    runtime = dataclasses.replace(tiny.runtime, workers="2", sharding="fsdp", activation_checkpointing=True)
    second = pretrain(RunSettings(science=science, runtime=runtime), [phantom_set.root.url], str(tmp_path), "second")
    ends, starts = ([line["loss"] for line in metrics(each)] for each in (one, second))
    assert abs(starts[0] - ends[-1]) < 0.5 * (ends[0] - ends[-1])
    encoder, info = load_encoder(second.root.url, "encoder")  # at this rate it hardly moves
    other, _ = load_encoder(one.root.url, "encoder")
    images = torch.rand(2, 48, 48)
    assert info.images_seen == run.checkpoints(second.root)[-1].position
    assert torch.nn.functional.cosine_similarity(encoder(images), other(images), dim=-1).min() > 0.99
