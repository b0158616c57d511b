"""The published benchmarks, each from its owner's layout to its published metric."""

from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.examples import Examples
from chexworld_ray.evaluation.features import embed, feature_table, load_features, load_images, row_columns
from chexworld_ray.evaluation.results import ScoredTrial, headlines, result_rows
from chexworld_ray.evaluation.settings import EvaluationSettings, FitSettings, SegmentSettings
from chexworld_ray.evaluation.tasks import BENCHMARKS, CHEXPERT, Task, parse_tasks
from chexworld_ray.evaluation.trial import Trial, run_trial
from chexworld_ray.models.backbone import Backbone, Size, read_backbone
from chexworld_ray.models.weights import untrained_encoder_bytes
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.shards.settings import CleanSettings, WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.storage import place

CPU = torch.device("cpu")
SPLITS = ("train", "val", "test")
MODEL = ModelSettings(image_size=48, patch_size=12, width=24, depth=1, heads=2, predictor_width=24, predictor_depth=1)
ENCODER = untrained_encoder_bytes(MODEL, 0, (0.5, 0.2))
LAID: dict[str, Callable[[Path], list[str]]] = {
    "vindr": lambda root: layouts.vindr(root, 40, 12),
    "shenzhen": lambda root: layouts.shenzhen(root, 60),
    "nih14": lambda root: layouts.nih14(root, 48, test=12),
    "rsna": lambda root: layouts.rsna(root, 60),
    "rsna-opacity": lambda root: layouts.rsna(root, 36),
    "chexpert": lambda root: layouts.chexpert(root, images=40, test=16),
    "siim": lambda root: layouts.siim(root, 24),
    "chestdr": lambda root: layouts.chestdr(root, 40, 12),
}
OWNER = {"rsna-opacity": "rsna"}


def opened(size: Size, drop_path: float) -> Backbone:
    return read_backbone(ENCODER, "here", size, drop_path)


def features(manifest: Manifest, dataset: str, folder: Path) -> dict[str, Examples]:
    folder.mkdir()
    for number, file in enumerate(manifest.select(SPLITS, ("frontal", "unknown"))):
        for group in range(len(file.row_groups)):
            url = (manifest.root / file.path).url
            rows = read_row_group(url, group, (*row_columns(manifest), "image"))
            found = embed(opened(Size(), 0.0), rows["image"].to_pylist(), CPU)
            pq.write_table(feature_table(rows, found), folder / f"{number}-{group}.parquet")
    return load_features(place(str(folder)), dataset)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_from_the_owners_folder_to_the_published_metric(
    name: str, tmp_path: Path, write_set: Callable[[Source, Path, WriteSettings], Manifest]
) -> None:
    LAID[name](tmp_path / "in")
    settings = WriteSettings(split_seed=3, test_fraction=0.25, clean=CleanSettings(crop_borders=False))
    manifest = write_set(read_source(str(tmp_path / "in"), OWNER.get(name, name)), tmp_path / "out", settings)  # type: ignore[arg-type]
    datasets = sorted({dataset for file in manifest.files for dataset in file.datasets})
    (task,) = parse_tasks(name, datasets, "ignore")
    quick = EvaluationSettings(segment=SegmentSettings(patch_size=12, fit=FitSettings(epochs=1, batch=8)))
    if task.headline == "dice":
        parts = load_images(manifest, task.dataset, SPLITS, task.organs)
        trial = Trial(task=task, protocol="segment")
    else:
        parts = features(manifest, task.dataset, tmp_path / "features")
        trial = Trial(task=task, protocol="fewshot" if name == "chestdr" else "linear", shots=10)
    done = run_trial(parts, trial, quick, opened, CPU)
    scored = ScoredTrial(
        run="r", images_seen=1, kind="checkpoint", seed=0, task=name, protocol=trial.name, scores=done.scores
    )
    rows = [row for row in headlines(result_rows([scored])) if row.metric == task.headline]
    assert rows
    assert all(0 <= row.low <= row.value <= row.high <= 1 for row in rows)
    assert {row.task.split("/")[1].split("=")[0] for row in rows} <= {
        *task.labels,
        *task.organs,
        "mean",
    } or not task.labels
    test = sum(file.rows for file in manifest.files if file.split == "test" and file.projection != "lateral")
    assert max(row.n for row in rows) == test, "every test image counts"


def test_a_few_shot_draw_is_the_published_one(
    tmp_path: Path, write_set: Callable[[Source, Path, WriteSettings], Manifest]
) -> None:
    LAID["chestdr"](tmp_path / "in")
    manifest = write_set(read_source(str(tmp_path / "in"), "chestdr"), tmp_path / "out", WriteSettings())
    parts = features(manifest, "chestdr", tmp_path / "features")
    for draw in (0, 4):
        trial = Trial(task=BENCHMARKS["chestdr"], protocol="fewshot", shots=10, draw=draw)
        done = run_trial(parts, trial, EvaluationSettings(), opened, CPU)
        lines = (tmp_path / "in" / f"chest_10-shot_train_exp{draw + 1}.txt").read_text().split("\n")
        assert done.facts["train"] == len([line for line in lines if line])


def test_chexperts_policies_are_the_published_ones() -> None:
    task = BENCHMARKS["chexpert"]
    assert {name for name in CHEXPERT if task.uncertain[name] == "one"} == {"atelectasis", "edema"}
    assert task.empty_is_zero
    assert "test split" in task.note


def test_any_other_data_set_is_a_task_with_all_of_its_labels() -> None:
    assert parse_tasks(None, ["a", "b"], "one") == [Task(name=n, dataset=n, otherwise="one") for n in ("a", "b")]
    with pytest.raises(UserError, match="needs data set vindr-cxr"):
        parse_tasks("vindr", ["a"], "ignore")
    with pytest.raises(UserError, match="no such task"):
        parse_tasks("mnist", ["a"], "ignore")
    assert np.isin(list(LAID), list(BENCHMARKS)).all()
