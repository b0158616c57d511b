"""Pretraining, evaluation and the report, on the real chain."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from browser import looked_at

from chexworld_ray import load_encoder
from chexworld_ray.analysis.outcome import read_outcomes
from chexworld_ray.analysis.settings import AnalysisSettings
from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import read_results
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.reports.html import write_report
from chexworld_ray.runtime.analyze import analyze
from chexworld_ray.runtime.evaluate import evaluate
from chexworld_ray.runtime.pretrain import RAY_LIST, pretrain
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.training import run


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_train_evaluate_report(ray_here: None, phantom_set: Manifest, tiny: RunSettings, storage: Path) -> None:
    data = phantom_set.root.url
    record = pretrain(tiny, [data], str(storage), "one")
    total = record.science.total_batches(sum(f.rows for f in phantom_set.select(("train",), ("frontal",)))) * 10
    lines = [json.loads(line) for line in (storage / "one" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["images_seen"] == total
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert run.checkpoints(record.root)[-1].position == total
    assert list((storage / "one" / "tensorboard").iterdir())
    rows = evaluate([record.root.url], data, None, EvaluationSettings(protocol="knn"))
    assert {row.encoder for row in rows} >= {"one@random", f"one@{total}"}
    assert all(row.low <= row.value <= row.high for row in rows if row.positives >= 10)
    assert sorted(map(repr, read_results(record.root))) == sorted(map(repr, rows))
    page = Path(write_report(record, None)).read_text()
    assert "one@random" in page
    assert page.count("<svg") >= 1
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_analyses_are_kept_with_the_run_and_shown_in_its_report(ray_here: None, storage: Path) -> None:
    one = run.load_url(str(storage / "one"))
    found = analyze(one.root.url, None, AnalysisSettings(images=3, candidates=6, decoder_steps=20))
    assert [outcome.name for outcome in found] == ["retrieval", "correspondence", "layout", "pictures", "capacity"]
    assert {outcome.title: outcome.rows for outcome, _ in read_outcomes(one.root)} == {
        outcome.title: outcome.rows for outcome in found
    }
    assert (storage / "one" / "analyses" / "layout.png").read_bytes()[:4] == b"\x89PNG"
    page = Path(write_report(one, None)).read_text()
    assert all(outcome.title in page for outcome in found)
    with pytest.raises(UserError, match="no frontal images in split holdout"):
        analyze(one.root.url, None, AnalysisSettings(split="holdout"))


def test_the_report_reads_well_in_a_browser(storage: Path, tmp_path: Path) -> None:
    looked_at(storage / "one" / "report.html", tmp_path)


def test_the_same_command_goes_on_and_other_settings_are_refused(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, storage: Path
) -> None:
    data = phantom_set.root.url
    before = (storage / "one" / "metrics.jsonl").read_text()
    pretrain(tiny, [data], str(storage), "one")  # complete: nothing is trained again
    assert (storage / "one" / "metrics.jsonl").read_text() == before
    names = (storage / "one" / RAY_LIST).read_text()
    (storage / "one" / RAY_LIST).write_text(names[:-20])  # Ray, which writes it in place, was killed
    pretrain(tiny, [data], str(storage), "one")
    assert (storage / "one" / "metrics.jsonl").read_text() == before
    other = dataclasses.replace(tiny, science=dataclasses.replace(tiny.science, seed=7))
    with pytest.raises(UserError, match="seed: 0 -> 7"):
        pretrain(other, [data], str(storage), "one")


@pytest.mark.slow
def test_a_checkpoint_that_is_gone_is_one_line_and_the_way_on_works(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    """The older folder that Ray's list names goes; another run goes on from the newest, and has nothing left to do."""
    data, runtime = [phantom_set.root.url], dataclasses.replace(tiny.runtime, checkpoint_images=100)
    record = pretrain(dataclasses.replace(tiny, runtime=runtime), data, str(tmp_path), "one")
    stored = run.checkpoints(record.root)
    shutil.rmtree(stored[0].root.path)
    with pytest.raises(UserError, match="--name one-2 --resume-from") as caught:
        pretrain(tiny, data, str(tmp_path), "one")
    assert "\n" not in str(caught.value)
    second = pretrain(tiny, data, str(tmp_path), "one-2", record.root.url)
    assert second.science == record.science
    other = dataclasses.replace(tiny, science=dataclasses.replace(tiny.science, seed=7))
    with pytest.raises(UserError, match="seed: 0 -> 7"):
        pretrain(other, data, str(tmp_path), "one-3", stored[-1].root.url)


@pytest.mark.slow
def test_one_two_and_three_workers_draw_the_same_loss_curve(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    """Also with a global batch (10) that three workers can't share evenly."""
    curves = []
    for workers in ("1", "2", "3"):
        settings = dataclasses.replace(tiny, runtime=dataclasses.replace(tiny.runtime, workers=workers))
        record = pretrain(settings, [phantom_set.root.url], str(tmp_path), f"w{workers}")
        lines = (Path(record.root.path) / "metrics.jsonl").read_text().splitlines()
        curves.append([json.loads(line)["loss"] for line in lines])
    assert len(curves[0]) > 8
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert curves[2] == pytest.approx(curves[0], rel=1e-3)


def test_a_request_that_can_never_be_placed_is_one_line(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, storage: Path
) -> None:
    for change, words in (
        ({"workers": "64"}, "64"),
        ({"cpus_per_worker": 99.0}, "99 CPU"),
        ({"gpu": True}, "GPU"),
    ):
        settings = dataclasses.replace(tiny, runtime=dataclasses.replace(tiny.runtime, **change))
        with pytest.raises(UserError, match=words) as caught:
            pretrain(settings, [phantom_set.root.url], str(storage), "never")
        assert "\n" not in str(caught.value)
    assert not (storage / "never").exists()


def test_storage_that_workers_can_not_see_is_refused(ray_here: None, phantom_set: Manifest, tiny: RunSettings) -> None:
    with pytest.raises(UserError, match="memory://"):
        pretrain(tiny, [phantom_set.root.url], "memory://runs", "one")


@pytest.mark.slow
def test_a_run_that_diverges_stops_with_one_line(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, storage: Path
) -> None:
    """It is not started again: that would end in the same place."""
    optim = dataclasses.replace(tiny.science.optim, lr=1e30, warmup=0.0)
    settings = dataclasses.replace(
        tiny,
        science=dataclasses.replace(tiny.science, optim=optim),
        runtime=dataclasses.replace(tiny.runtime, max_skipped_in_row=4),
    )
    with pytest.raises(UserError, match="training diverged") as caught:
        pretrain(settings, [phantom_set.root.url], str(storage), "diverged")
    assert "\n" not in str(caught.value)
    lines = [json.loads(line) for line in (storage / "diverged" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["skipped_fraction"] == 1.0


@pytest.mark.slow
def test_sharded_workers_and_a_start_from_another_run(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, storage: Path, tmp_path: Path
) -> None:
    """FSDP2 on two workers goes on from a run of one: its first loss is where the other's last was."""
    data = [phantom_set.root.url]
    first = pretrain(tiny, data, str(tmp_path), "first")
    optim = dataclasses.replace(tiny.science.optim, lr=1e-6)
    science = dataclasses.replace(tiny.science, init=first.root.url, optim=optim)
    runtime = dataclasses.replace(tiny.runtime, workers="2", sharding="fsdp", activation_checkpointing=True)
    second = pretrain(RunSettings(science=science, runtime=runtime), data, str(tmp_path), "second")
    ends, starts = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("first", "second")
    )
    assert abs(starts[0] - ends[-1]) < 0.5 * (ends[0] - ends[-1])
    encoder, info = load_encoder(second.root.url, "encoder")  # at this rate it hardly moves
    other, _ = load_encoder(first.root.url, "encoder")
    images = torch.rand(2, 48, 48)
    assert info.images_seen == run.checkpoints(second.root)[-1].position
    assert torch.nn.functional.cosine_similarity(encoder(images), other(images), dim=-1).min() > 0.99
