"""What is seen of a run while it trains: the online probe, and the stop of one that diverged."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chexworld_ray import load_encoder
from chexworld_ray.config import ModelSettings, Runtime, Science
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import embed
from chexworld_ray.metrics.classification import auroc
from chexworld_ray.metrics.knn import knn_scores
from chexworld_ray.models.backbone import read_backbone
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.weights import encoder_bytes
from chexworld_ray.phantoms.dataset import TABLE
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.storage import place
from chexworld_ray.training.best import KeepBest
from chexworld_ray.training.loop import Callbacks, train
from chexworld_ray.training.probe import OnlineProbe, read_probe_sets
from chexworld_ray.training.state import start_state
from chexworld_ray.views.batch import CropBatch

WriteSet = Callable[[Source, Path, WriteSettings], Manifest]
MODEL = ModelSettings(image_size=48, patch_size=12, width=32, depth=2, heads=2, predictor_width=16, predictor_depth=1)
SCIENCE = Science(model=MODEL, global_batch=4, precision="fp32")
PIXELS = (0.5, 0.25)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def labelled(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_set: WriteSet) -> Manifest:
    """Phantoms with enough of them in val."""
    source = read_source(str(phantom_folder), labels=TABLE)
    settings = WriteSettings(row_group_images=16, val_fraction=0.4)
    return write_set(source, tmp_path_factory.mktemp("labelled"), settings)


def shares(poisoned: bool = False) -> Iterator[CropBatch]:
    rng = np.random.default_rng(0)
    boxes = np.array([[[0, 0, 50, 60], [13, 7, 50, 60]]] * 4, np.int32)
    for start in range(0, 1000, 4):
        crops = rng.integers(0, 255, (4, 2, 48, 48), np.uint8)
        weights = np.full(4, np.nan if poisoned else 1.0, np.float32)
        yield CropBatch(crops, boxes, np.arange(start, start + 4), weights)


def test_the_probe_is_knn_on_val_with_a_copy_of_the_target(labelled: Manifest) -> None:
    sets = read_probe_sets([labelled], 48, 1000)
    state = start_state(SCIENCE, 100, CPU)
    probe = OnlineProbe(sets, MODEL, PIXELS, lambda *_: None)
    assert probe.latest() == {}
    probe.offer(state.target, 40)
    probe.close()
    found = probe.latest()
    assert found["probe_images_seen"] == 40
    assert probe.latest() == {}
    probe.offer(state.target, 44)  # too soon after the last
    probe.close()
    assert probe.latest() == {}

    labels = next(iter(sets)).labels
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for file in labelled.files:
        if file.split in rows:
            for index in range(len(file.row_groups)):
                columns = ("image", *(f"label_{name}" for name in labels))
                rows[file.split] += read_row_group((labelled.root / file.path).url, index, columns).to_pylist()
    target = encoder_bytes(state.target.vit.state_dict(), MODEL, PIXELS, 0)
    features = {
        split: embed(read_backbone(target, "here"), [row["image"] for row in part], CPU) for split, part in rows.items()
    }
    values = []
    for name in labels:
        bank, truth = (np.array([row[f"label_{name}"] for row in rows[split]]) for split in ("train", "val"))
        values.append(auroc(truth, knn_scores(features["train"], bank, features["val"]))[0])
    assert found["probe_knn"] == pytest.approx(float(np.mean(values)), abs=0.01)


def test_the_probe_set_is_bounded_and_needs_labels(labelled: Manifest) -> None:
    (one,) = read_probe_sets([labelled], 48, 20)
    whole = read_probe_sets([labelled], 48, 1000)[0]
    assert 20 <= len(one.bank_NSS) < 36  # row groups of 16 are read until there are 20
    assert len(whole.bank_NSS) > len(one.bank_NSS)
    assert read_probe_sets([replace(labelled, columns=Columns())], 48, 10) == []


def quiet(records: list[dict[str, Any]], probe: OnlineProbe | None = None) -> Callbacks:
    """Log only: no checkpoints, no notice."""
    return Callbacks(records.append, lambda state, urgent: None, lambda: False, probe)


def test_training_logs_the_probe(labelled: Manifest) -> None:
    records: list[dict[str, Any]] = []
    state = start_state(SCIENCE, 800, CPU)
    probe = OnlineProbe(read_probe_sets([labelled], 48, 64), MODEL, PIXELS, lambda *_: None)
    train(state, shares(), SCIENCE, Runtime(log_batches=1), PIXELS, 1, quiet(records, probe))
    probed = [record for record in records if "probe_knn" in record]
    assert probed
    assert all(0.0 <= record["probe_knn"] <= 1.0 for record in probed)
    assert all(record["probe_images_seen"] < record["images_seen"] for record in probed)
    assert {"target_rankme_centred", "prediction_rankme_centred", "skipped_fraction"} <= records[0].keys()
    assert {"target_std_over_images", "prediction_std_over_images"} <= records[0].keys()


def test_steps_that_are_not_finite_in_a_row_stop_the_run() -> None:
    state = start_state(SCIENCE, 400, CPU)
    before = [value.clone() for value in state.model.state_dict().values()]
    records: list[dict[str, Any]] = []
    runtime = Runtime(log_batches=4, max_skipped_in_row=8)
    with pytest.raises(UserError, match="last 8 steps up to 32 images seen"):
        train(state, shares(poisoned=True), SCIENCE, runtime, PIXELS, 1, quiet(records))
    assert [record["skipped_fraction"] for record in records] == [1.0, 1.0]
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.state_dict().values(), strict=True))


def test_the_best_is_kept_with_its_very_weights_also_over_a_restart(tmp_path: Path) -> None:
    run = place(str(tmp_path))
    said: list[str] = []
    torch.manual_seed(0)
    first, better, worse = (Encoder(MODEL) for _ in range(3))
    keep = KeepBest(run, MODEL, PIXELS, said.append)
    keep(first, 0.6, 100)
    keep(better, 0.7, 200)
    KeepBest(run, MODEL, PIXELS, said.append)(worse, 0.65, 300)
    kept, info = load_encoder(str(tmp_path / "best.safetensors"))
    assert info.images_seen == 200
    assert all(torch.equal(kept.vit.state_dict()[name], value) for name, value in better.vit.state_dict().items())
    file = tmp_path / "file"
    file.write_text("")
    away = KeepBest(run, MODEL, PIXELS, said.append)
    away._run = place(str(file))  # not a folder: nothing can be written there
    away(first, 0.9, 400)
    assert "is not kept" in said[0]
