"""Each owner's layout, with its traps, through the adapter and into rows of the schema."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import layouts
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from chexworld_ray.errors import UserError
from chexworld_ray.shards.decode import decode_grey_jpeg
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.settings import CleanSettings, Dataset, WriteSettings
from chexworld_ray.shards.source import TRAIN_VAL, Source
from chexworld_ray.shards.sources.registry import OWNERS, read_source
from chexworld_ray.shards.sources.tuberculosis import parse_reading

WriteSet = Callable[[Source, Path, WriteSettings], Manifest]
Rows = dict[str, dict[str, Any]]
KEEP = WriteSettings(split_seed=3, clean=CleanSettings(crop_borders=False))


@pytest.fixture
def ingested(tmp_path: Path, write_set: WriteSet) -> Callable[[Dataset], Rows]:
    """Lay a data set out as its owner does, write its shards, and give their rows by image_id."""

    def lay(dataset: Dataset) -> Rows:
        ids = getattr(layouts, dataset)(tmp_path / "in")
        source = read_source(str(tmp_path / "in"), dataset)
        assert sorted(row.image_id for row in source) == sorted(ids)
        assert all(row.published for row in source)
        manifest = write_set(source, tmp_path / "out", KEEP)
        tables = [pq.read_table(tmp_path / "out" / file.path) for file in manifest.files]
        rows = {row["image_id"]: row for table in tables for row in table.to_pylist()}
        assert sorted(rows) == sorted(ids), "every image became a row"
        for number, name in enumerate(ids[:1]):
            pixels = decode_grey_jpeg(rows[name]["image"]).astype(float)
            wanted = layouts.phantom(number).image_HW.astype(float)
            assert np.corrcoef(cv2.resize(pixels, (96, 96)).ravel(), wanted.ravel())[0, 1] > 0.9, "lungs are dark"
        return rows

    return lay


def mask_of(row: dict[str, Any], organ: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row[f"mask_{organ}"]))) > 0


def overlap(row: dict[str, Any], organ: str, wanted: np.ndarray) -> float:
    """Dice of a row's mask and what it should be."""
    found = mask_of(row, organ)
    wanted = cv2.resize(wanted.astype(np.uint8), found.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return 2 * float((found & wanted).sum()) / float(found.sum() + wanted.sum())


def labels_of(row: dict[str, Any]) -> dict[str, float | None]:
    return {name.removeprefix("label_"): value for name, value in row.items() if name.startswith("label_")}


def test_every_owner_is_told_in_the_docstring() -> None:
    for reader in OWNERS.values():
        told = __import__(reader.__module__, fromlist=["x"]).__doc__
        for word in ("Layout:", "Labels", "Splits:", "Patient", "Licence:", "Citation:"):
            assert word in told, (reader.__module__, word)


def test_mimic_joins_its_tables(ingested: Callable[[Dataset], Rows]) -> None:
    rows = list(ingested("mimic").values())
    rows.sort(key=lambda row: row["image_id"])
    assert [row["view"] for row in rows[:4]] == ["frontal PA", "lateral", "frontal AP", "unknown"]
    assert [row["split"] for row in rows] == ["train"] * 4 + ["val"] * 4
    assert {row["patient_id"] for row in rows} == {"10000032", "10000033"}
    assert rows[0]["study_id"] == rows[1]["study_id"] == "50414267"
    assert labels_of(rows[0])["atelectasis"] == labels_of(rows[1])["atelectasis"] == 1.0
    assert labels_of(rows[0])["consolidation"] == -1.0, "uncertain labels keep their value"
    assert labels_of(rows[0])["edema"] is None
    assert labels_of(rows[6])["atelectasis"] is None, "a study that the labeller left out"
    assert labels_of(rows[2])["radiologist_lung_opacity"] == labels_of(rows[2])["lung_opacity"]
    assert labels_of(rows[0])["radiologist_lung_opacity"] is None


@pytest.mark.parametrize("small", [False, True])
def test_chexpert_paths_lose_their_release(tmp_path: Path, small: bool) -> None:
    ids = layouts.chexpert(tmp_path / "renamed" / "inner", small)
    source = read_source(str(tmp_path / "renamed"), "chexpert")
    rows = {row.image_id: row for row in source}
    assert list(rows) == ids
    first, last = rows[ids[0]], rows[ids[-1]]
    assert (first.patient_id, first.split, last.split) == ("patient00001", TRAIN_VAL, "test")
    assert first.path == "inner/" + ids[0]
    assert first.labels["consolidation"] == -1.0
    assert "edema" not in first.labels
    assert first.meta == {"sex": "Female", "age": 40.0}
    assert first.study_id != rows[ids[2]].study_id, "study1 of two patients is not one study"


def test_chexpert_in_batches_is_the_same_set(tmp_path: Path) -> None:
    ids = layouts.chexpert_in_batches(tmp_path / "batches")
    layouts.chexpert(tmp_path / "whole")
    batches, whole = (list(read_source(str(tmp_path / name), "chexpert")) for name in ("batches", "whole"))
    assert [row.image_id for row in batches] == ids
    assert [replace(row, path="") for row in batches] == [replace(row, path="") for row in whole]
    for one, other in zip(batches, whole, strict=True):
        assert (tmp_path / "batches" / one.path).read_bytes() == (tmp_path / "whole" / other.path).read_bytes()


def test_chexpert_images_are_found_where_the_tables_do_not_lie(tmp_path: Path) -> None:
    ids = layouts.chexpert(tmp_path / "small" / "CheXpert-v1.0-small", small=True)
    for name in ("train.csv", "valid.csv"):
        (tmp_path / "small" / "CheXpert-v1.0-small" / name).rename(tmp_path / name)
    found = [row.path for row in read_source(str(tmp_path), "chexpert")]
    assert found == [f"small/CheXpert-v1.0-small/{name}" for name in ids]


def test_chexpert_validation_patients_are_test(ingested: Callable[[Dataset], Rows]) -> None:
    rows = ingested("chexpert")
    assert {row["split"] for name, row in rows.items() if name.startswith("valid")} == {"test"}
    assert {row["split"] for name, row in rows.items() if name.startswith("train")} <= {"train", "val"}
    assert {row["view"] for row in rows.values()} == {"frontal AP", "frontal PA", "lateral"}


def test_nih_findings_boxes_and_lists(ingested: Callable[[Dataset], Rows]) -> None:
    rows = ingested("nih14")
    first, third = rows["00000001_000.png"], rows["00000002_000.png"]
    positive = {name for name, value in labels_of(first).items() if value == 1.0}
    assert positive == {"cardiomegaly", "emphysema"}
    assert labels_of(first)["hernia"] == 0.0
    assert (first["patient_id"], first["meta_age"], first["meta_sex"]) == ("1", 40.0, "F")
    assert rows["00000001_001.png"]["meta_age"] == 41.0, "ages like 041Y"
    assert [box["label"] for box in third["boxes"]] == ["infiltration"], "which the box list calls Infiltrate"
    assert (third["boxes"][0]["x"], third["boxes"][0]["h"]) == (10.5, 12.5)
    assert {name for name, row in rows.items() if row["split"] == "test"} == {"00000005_000.png", "00000005_001.png"}


def test_nih_of_2020_in_one_folder(tmp_path: Path) -> None:
    ids = layouts.nih14(tmp_path, version="_v2020", one_folder=True)
    assert [row.image_id for row in read_source(str(tmp_path), "nih14")] == ids


def test_vindr_readers_are_outvoted(ingested: Callable[[Dataset], Rows]) -> None:
    rows = list(ingested("vindr").values())
    train = sorted((row for row in rows if row["split"] != "test"), key=lambda row: row["image_id"])
    assert labels_of(train[0])["aortic_enlargement"] == 1.0
    assert labels_of(train[0])["atelectasis"] == 0.0, "one of three readers"
    assert [(box["label"], box["w"]) for box in train[0]["boxes"]] == [
        ("aortic_enlargement", 30.5),
        ("aortic_enlargement", 28.0),
    ]
    (test,) = [row for row in rows if row["split"] == "test"]
    assert set(labels_of(test).values()) == {1.0}


def test_rsna_boxes_are_gathered_and_filled(ingested: Callable[[Dataset], Rows]) -> None:
    rows = list(ingested("rsna").values())
    rows.sort(key=lambda row: row["image_id"])
    assert [labels_of(row)["rsna_class"] for row in rows[:3]] == [2.0, 0.0, 1.0]
    assert [labels_of(row)["pneumonia"] for row in rows[:3]] == [1.0, 0.0, 0.0]
    assert len(rows[0]["boxes"]) == 2
    wanted = np.zeros((96, 96), bool)
    wanted[30:50, 20:45] = wanted[30:70, 55:75] = True
    assert overlap(rows[0], "opacity", wanted) > 0.95
    assert not mask_of(rows[1], "opacity").any(), "no opacity is an empty mask, not an unknown one"
    assert rows[0]["view"] == "frontal PA", "from the header"


def test_siim_runs_of_several_rows_are_one_mask(ingested: Callable[[Dataset], Rows]) -> None:
    rows = list(ingested("siim").values())
    rows.sort(key=lambda row: row["image_id"])
    assert [labels_of(row)["pneumothorax"] for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert overlap(rows[0], "pneumothorax", np.logical_or(*layouts.siim_masks())) > 0.95
    assert not mask_of(rows[1], "pneumothorax").any()
    assert [row["patient_id"] for row in rows] == ["pseudonym-0", "pseudonym-0", "pseudonym-1", "pseudonym-1"]


def test_shenzhen_class_is_in_the_name(ingested: Callable[[Dataset], Rows]) -> None:
    rows = ingested("shenzhen")
    assert labels_of(rows["CHNCXR_0001_1"]) == {"tuberculosis": 1.0}
    assert labels_of(rows["CHNCXR_0002_0"]) == {"tuberculosis": 0.0}
    assert overlap(rows["CHNCXR_0001_1"], "lung", layouts.phantom(0).masks["lung"]) > 0.95
    assert rows["CHNCXR_0004_0"]["mask_lung"] is None
    assert rows["CHNCXR_0003_1"]["meta_age"] == 0.5
    assert rows["CHNCXR_0001_1"]["meta_finding"] == "PTB in the left upper field"


def test_readings_of_both_sets_are_understood() -> None:
    assert parse_reading("male 45yrs\nnormal") == {"sex": "M", "age": 45.0, "finding": "normal"}
    assert parse_reading("Patient's Sex: F\nPatient's Age: 026Y\nnormal") == {
        "sex": "F",
        "age": 26.0,
        "finding": "normal",
    }
    assert parse_reading("") == {}


def test_montgomery_lungs_are_joined(ingested: Callable[[Dataset], Rows]) -> None:
    row = ingested("montgomery")["MCUCXR_0001_1"]
    lung = layouts.phantom(0).masks["lung"]
    assert overlap(row, "lung", lung) > 0.95
    assert not (mask_of(row, "left_lung") & mask_of(row, "right_lung")).any()
    assert (row["meta_sex"], row["meta_age"]) == ("F", 26.0)


def test_jsrt_has_five_organs(ingested: Callable[[Dataset], Rows]) -> None:
    rows = ingested("jsrt")
    assert labels_of(rows["JPCLN001"]) == {"nodule": 1.0}
    assert labels_of(rows["JPCNN002"]) == {"nodule": 0.0}
    assert overlap(rows["JPCLN001"], "lung", layouts.phantom(0).masks["lung"]) > 0.9
    assert overlap(rows["JPCLN001"], "heart", layouts.phantom(0).masks["heart"]) > 0.9
    assert mask_of(rows["JPCLN001"], "left_clavicle").any()


def test_chestdr_keeps_the_published_draws(ingested: Callable[[Dataset], Rows]) -> None:
    rows = ingested("chestdr")
    assert {row["split"] for row in list(rows.values())} <= {"train", "val", "test"}
    assert sum(row["split"] == "test" for row in rows.values()) == 3
    drawn = {name for name, row in rows.items() if row["meta_shot_10_exp2"] == "train"}
    assert drawn == {"0002_2.png", "0003_3.png", "0004_4.png"}
    assert len(labels_of(rows["0000_0.png"])) == 19
    assert labels_of(rows["0000_0.png"])["pleural_effusion"] == 1.0


@pytest.mark.parametrize("dataset", list(OWNERS))
def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "a.png").write_bytes(layouts.png(layouts.phantom(0).image_HW))
    with pytest.raises(UserError, match="below it; a folder of") as caught:
        read_source(str(tmp_path), dataset)
    assert "\n" not in str(caught.value)


def test_files_that_were_not_downloaded_are_named(tmp_path: Path) -> None:
    ids = layouts.nih14(tmp_path)
    for path in (tmp_path / "images_001" / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="5 of 10 rows name files that are not there"):
        read_source(str(tmp_path), "nih14")
    source = read_source(str(tmp_path), "nih14", skip_missing=True)
    assert len(source.set_aside) == 5
    assert source.found == len(ids)


@pytest.mark.parametrize(("dataset", "name"), [("nih14", "test_list.txt"), ("chestdr", "*.txt")])
def test_an_owners_list_that_is_not_utf8_is_one_line(tmp_path: Path, dataset: Dataset, name: str) -> None:
    {"nih14": layouts.nih14, "chestdr": layouts.chestdr}[dataset](tmp_path)
    file = next(tmp_path.rglob(name))
    file.write_bytes(file.read_bytes() + b"\xe9\n")
    with pytest.raises(UserError, match=rf"{file.name}: line .* is not UTF-8"):
        read_source(str(tmp_path), dataset)


def test_a_reading_with_an_odd_byte_is_read(tmp_path: Path) -> None:
    layouts.shenzhen(tmp_path)
    file = next(tmp_path.rglob("ClinicalReadings/*.txt"))
    file.write_bytes(b"male 45yrs\ncaf\xe9")
    found = [row.meta for row in read_source(str(tmp_path), "shenzhen") if row.image_id == file.stem]
    assert found == [{"sex": "M", "age": 45.0, "finding": "caf\ufffd"}]
