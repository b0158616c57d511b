"""Error rates of the check of pictures, and its training."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from chexworld_ray.benchmarks import picture_training, pictures
from chexworld_ray.benchmarks.picture_material import Material, drawn
from chexworld_ray.benchmarks.picture_training import PictureNet, _fitted, _highest, folded, train
from chexworld_ray.benchmarks.pictures import error_rates, part
from chexworld_ray.cli import main
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.picture import FLAGS, SIDE, _logits, look, shipped, weights_of

TOLD = {
    "looks_negative": {"kermany_pediatric": 238, "nih_chestxray14": 164},
    "looks_turned_90": {"kermany_pediatric": 238, "nih_chestxray14": 163},
    "looks_turned_180": {"kermany_pediatric": 238, "nih_chestxray14": 164},
    "looks_turned_270": {"kermany_pediatric": 238, "nih_chestxray14": 163},
    "looks_mirrored": {"kermany_pediatric": 196, "nih_chestxray14": 48},
    "looks_no_chest": {"kermany_pediatric in pieces": 220, "nih_chestxray14 in pieces": 145},
}
"""Found of 238 and 164, as docs/own-data.md has it."""


def test_error_rates_on_phantoms_are_those_that_were_measured() -> None:
    """Of 24 of each; a new network may differ, and then renews these numbers and the table in docs/own-data.md."""
    rates = error_rates(drawn("test", 24), shipped())
    assert rates["flagged_wrongly"]["phantoms"]["count"] == 0
    found = {flag: {source: one["count"] for source, one in of.items()} for flag, of in rates["found"].items()}
    turned = {f"looks_turned_{angle}": {"phantoms": 24} for angle in (90, 180, 270)}
    assert found == turned | {
        "looks_negative": {"phantoms": 24},
        "looks_mirrored": {"phantoms": 18},
        "looks_lateral": {"phantoms": 22},
        "looks_no_chest": {"phantoms in pieces": 22, "drawings": 23, "drawings of unseen kinds": 23},
    }


@pytest.mark.slow
def test_error_rates_on_radiographs_are_those_that_the_page_tells(radiographs: Path) -> None:
    """On the test patients of two sources, which neither training nor limits have seen."""
    of_source: dict[str, list[np.ndarray]] = {}
    with (radiographs / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            if row["split"] == "test":
                picture_HW = cv2.imread(str(radiographs / row["image"]), cv2.IMREAD_GRAYSCALE)
                assert picture_HW is not None
                of_source.setdefault(row["source"], []).append(picture_HW)
    rates = error_rates([Material(source, "frontal", found) for source, found in of_source.items()], shipped())
    assert set(rates["flagged_wrongly"]) == {"kermany_pediatric", "nih_chestxray14"}
    assert sum(one["count"] for one in rates["flagged_wrongly"].values()) <= 2
    for flag, of in TOLD.items():
        for source, count in of.items():
            found = rates["found"][flag][source]
            assert found["count"] == pytest.approx(count, abs=0.03 * found["images"]), flag  # pieces are drawn


def test_a_radiograph_that_its_source_delivered_upside_down_is_flagged(collected_bad_files: Path) -> None:
    picture_HW = cv2.imread(str(collected_bad_files / "upside_down.jpg"), cv2.IMREAD_GRAYSCALE)
    assert picture_HW is not None
    assert look(picture_HW, "unknown") == ["looks_turned_180"]


def test_an_interval_is_exact() -> None:
    """Clopper and Pearson: of none in n the upper end is 1 - 0.025^(1/n)."""
    found = part(0, 100)
    assert (found["low"], found["high"]) == (0.0, round(100 * (1 - 0.025 ** (1 / 100)), 1))
    assert part(1, 100)["percent"] == 1.0
    assert part(0, 0) == {"count": 0, "images": 0}


def test_the_shipped_form_scores_as_the_network_that_was_trained() -> None:
    torch.manual_seed(0)
    net = PictureNet()
    pictures_BHW = torch.randn(64, SIDE, SIDE)
    net(3 * pictures_BHW + 1)  # batch norms get statistics of their own
    net.eval()
    with torch.no_grad():
        expected = net(pictures_BHW[:4]).numpy()
    weights = weights_of(folded(net))
    found = np.stack([_logits(one.numpy().astype(np.float64), weights) for one in pictures_BHW[:4]])
    assert np.allclose(found, expected, atol=0.01)


@pytest.mark.slow
def test_no_good_picture_of_a_source_that_was_left_out_exceeds_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_training, "LEAST_LIMIT", -1000.0)  # these networks have learnt nothing
    monkeypatch.setattr(picture_training, "BATCH", 16)
    rng = np.random.default_rng(0)
    material = drawn("train", 6)
    hospital = [rng.integers(0, 256, (64, 64), np.uint8) for _ in range(4)]
    everything = [*material, Material("hospital", "frontal", hospital)]
    good = [Material("hospital", "frontal", hospital[:2])]
    arrays = train(everything, good, 6)
    kept, without = _fitted(everything, 6), _fitted(material, 3)
    assert all(np.array_equal(arrays[name], kept[name]) for name in kept if name != "limits")
    highest_F = np.maximum(_highest(hospital[:2], kept), _highest(hospital[:2], without))
    assert np.array_equal(arrays["limits"], highest_F)
    assert (highest_F > _highest(hospital[:2], kept)).any()


@pytest.mark.slow
def test_the_command_trains_measures_and_takes_a_data_set(
    phantom_set: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pictures, "DRAWN", {"train": 15, "val": 2})
    monkeypatch.setattr(pictures, "MOST", 8)
    monkeypatch.setattr(picture_training, "BATCH", 32)
    file, data = tmp_path / "weights.npz", phantom_set.root.url
    words = ["benchmark", "pictures", "--data", data, "--images", "4", "--json"]
    assert main([*words, "--train", str(file), "--steps", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    (data_set,) = set(result["flagged_wrongly"]) - {"phantoms"}
    assert data_set in phantom_set.counts()["by_dataset_and_split"]
    assert result["found"]["looks_negative"][data_set]["images"] == 4
    assert set(result["found"]) == set(FLAGS)
    assert result["found"]["looks_lateral"]["phantoms"]["images"] == 4
    with np.load(file, allow_pickle=False) as stored:
        assert weights_of(dict(stored)).limits_F.shape == (len(FLAGS),)
