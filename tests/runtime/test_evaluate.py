"""Every protocol through Ray: features once, trials under Tune, other people's encoders beside, and nothing twice."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import torch
from finished import copy_of

from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import headlines
from chexworld_ray.evaluation.results_file import read_results
from chexworld_ray.evaluation.settings import (
    AttentiveSettings,
    AugmentSettings,
    EvaluationSettings,
    FinetuneSettings,
    FitSettings,
    GridSettings,
    SegmentSettings,
)
from chexworld_ray.reports.html import write_report
from chexworld_ray.runtime.evaluate import evaluate
from chexworld_ray.runtime.pretrain import pretrain
from chexworld_ray.runtime.watch import watch
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import files_below, place
from chexworld_ray.training.run import Run, load_url

SHORT = FitSettings(epochs=2, batch=16)
QUICK = EvaluationSettings(
    protocol="knn,linear,attentive,finetune,fewshot,segment",
    fractions=(0.5,),
    shots=(2,),
    draws=2,
    attentive=AttentiveSettings(lrs=(1e-3,), heads=2, fit=SHORT),
    finetune=FinetuneSettings(lr=1e-3, drop_path=0.1, fit=SHORT),
    segment=SegmentSettings(patch_size=12, fit=SHORT),
)


@pytest.fixture(scope="module")
def trained(one: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_url(str(copy_of(one, tmp_path_factory.mktemp("runs"))))


def stamps(run: Run) -> dict[str, float]:
    return {file.url: Path(file.path).stat().st_mtime for file in files_below(run.root / "evaluations")}


@pytest.mark.slow
def test_every_protocol_beside_a_foreign_encoder_and_nothing_is_computed_twice(
    trained: Run, phantom_set: Manifest, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), tmp_path / "theirs.pth")
    theirs = f"timm:test_vit@{tmp_path / 'theirs.pth'}"
    data = phantom_set.root.url
    first = evaluate([trained.root.url], data, None, dataclasses.replace(QUICK, image_size=None), [theirs])
    shown = headlines(first)
    assert {row.protocol for row in shown} == {"knn", "linear", "attentive", "finetune", "fewshot-2", "segment"}
    encoders = {row.encoder for row in shown if "_difference" not in row.metric}
    assert encoders == {"one@random", f"one@{trained_images(first)}", "timm:test_vit"}
    assert {row.fraction for row in shown if row.protocol == "finetune"} == {0.5}
    segmented = [row for row in shown if row.protocol == "segment" and row.metric == "dice"]
    assert {row.task.split("/")[1] for row in segmented} == {"lung", "heart", "mean"}
    assert {row.encoder for row in shown if row.metric == "dice_difference"} >= {
        f"one@{trained_images(first)} - random",
        f"one@{trained_images(first)} - timm:test_vit",
    }
    before = stamps(trained)
    again = evaluate([trained.root.url], data, None, QUICK, [theirs])
    assert sorted(map(repr, again)) == sorted(map(repr, first))
    after = stamps(trained)
    assert {url: at for url, at in after.items() if "/tune" not in url} == {
        url: at for url, at in before.items() if "/tune" not in url
    }
    page = Path(write_report(trained, str(tmp_path / "report.html"))).read_text()
    assert "timm:test_vit" in page
    assert "50 % of labels" in page


@pytest.mark.slow
def test_settings_are_searched_on_validation_and_the_best_is_kept(trained: Run, phantom_set: Manifest) -> None:
    """At a rate of next to nothing nothing is learned, so the search must choose the other."""
    grid = GridSettings(lrs=(1e-9, 1e-2))
    fit = FitSettings(epochs=25, batch=8)
    still = AugmentSettings(crop_scale=(0.9, 1.0), jitter=0.0)
    settings = dataclasses.replace(
        QUICK,
        protocol="finetune",
        fractions=(1.0,),
        draws=1,
        grid=grid,
        finetune=FinetuneSettings(head="random", drop_path=0, augment=still, fit=fit),
        val_split="train",  # of ten validation images a source has one or two
    )
    rows = evaluate([trained.root.url], phantom_set.root.url, None, settings)
    assert {row.protocol for row in rows} == {"finetune"}
    scores = [file for file in files_below(trained.root / "evaluations") if "finetune" in file.path]
    assert not [file.url for file in scores if "candidate" in file.url]
    told = [json.loads(pq.read_schema(file.path).metadata[b"facts"])["chosen"] for file in scores]
    searched = [line for line in told if "best of 2 settings" in line]
    assert len(searched) == 2, "random start and checkpoint"
    assert all("settings: lr 0.01," in line for line in searched), told


@pytest.mark.nightly  # the chain on S3 (`test_cluster`) watches a run, too
def test_a_run_is_watched_while_it_trains(
    ray_here: None,
    phantom_set: Manifest,
    tiny: RunSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The watcher starts first, retention is short, and the run ends while it looks. A long silence is told."""
    monkeypatch.setattr("chexworld_ray.runtime.watch.QUIET", 1.0)
    data, url = phantom_set.root.url, str(tmp_path / "watched")
    runtime = dataclasses.replace(tiny.runtime, keep=2, checkpoint_images=40, probe_images=0)
    settings = dataclasses.replace(tiny, science=dataclasses.replace(tiny.science, epochs=2), runtime=runtime)
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(pretrain, settings, [data], str(tmp_path), "watched")
        rows = watch(url, data, 2, EvaluationSettings(protocol="knn"))
        run = training.result()
    assert "watched is waited for until it has seen all its" in capfd.readouterr().err
    seen = {row.images_seen for row in rows} - {0}
    assert max(seen) == run.total
    assert {row.images_seen for row in read_results(run.root)} == seen | {0}
    page = (tmp_path / "watched" / "report.html").read_text()
    assert [images for images in sorted(seen) if f"watched@{images} - random" in page] == [run.total]
    events = list((tmp_path / "watched" / "tensorboard").iterdir())
    assert len(events) == len(seen) + 1, "the trainer's file, and one for each evaluation"
    assert any(b"evaluation/" in file.read_bytes() for file in events)


def trained_images(rows: list) -> int:
    return max(row.images_seen for row in rows)


@pytest.mark.slow
def test_encoders_alone_need_a_place_for_results(ray_here: None, phantom_set: Manifest, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), tmp_path / "theirs.pth")
    theirs, data = f"timm:test_vit@{tmp_path / 'theirs.pth'}", phantom_set.root.url
    with pytest.raises(UserError, match="--out"):
        evaluate([], data, None, EvaluationSettings(), [theirs])
    rows = evaluate([], data, str(tmp_path / "out"), EvaluationSettings(protocol="knn", image_size=64), [theirs])
    assert {row.encoder for row in rows} == {"timm:test_vit@64px"}
    assert len(read_results(place(str(tmp_path / "out")))) == len(rows)
