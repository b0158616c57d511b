"""Ingest on Ray Data: complete, resumable, deterministic."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from chexworld_ray.errors import UserError
from chexworld_ray.runtime import ingest as ingests
from chexworld_ray.runtime.ingest import ingest
from chexworld_ray.shards.manifest import load
from chexworld_ray.shards.sources.folder import read_folder
from chexworld_ray.shards.writer import WriteSettings

SETTINGS = WriteSettings(row_group_images=16)


def test_a_folder_becomes_a_data_set(ray_here: None, phantom_folder: Path, tmp_path: Path) -> None:
    source, _ = read_folder(str(phantom_folder), "labels.csv", None, False)
    manifest = ingest(source, [], str(tmp_path / "out"), SETTINGS)
    assert manifest.rows == 96
    assert load(str(tmp_path / "out")) == manifest
    patients: dict[str, set[str]] = {}
    rows = 0
    for file in manifest.files:
        table = pq.read_table(tmp_path / "out" / file.path)
        rows += table.num_rows
        assert pq.read_metadata(tmp_path / "out" / file.path).num_row_groups == len(file.row_groups)
        for patient, split in zip(table["patient_id"].to_pylist(), table["split"].to_pylist(), strict=True):
            patients.setdefault(patient, set()).add(split)
        assert set(table["split"].to_pylist()) == {file.split}
        assert all(table["mask_lung"].to_pylist())
        assert all(len(landmarks) == 10 for landmarks in table["landmarks"].to_pylist())
    assert rows == 96
    assert all(len(splits) == 1 for splits in patients.values())
    assert {path.name for path in (tmp_path / "out").glob("*.parquet")} == {
        "rejected.parquet",
        *(file.path for file in manifest.files),
    }


def test_an_interrupted_ingest_goes_on_and_ends_the_same(
    ray_here: None, phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = read_folder(str(phantom_folder), "labels.csv", None, False)
    whole = ingest(source, [], str(tmp_path / "whole"), SETTINGS)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingests, "_drop_duplicates", stop)
        ingest(source, [], str(tmp_path / "cut"), SETTINGS)
    records = sorted((tmp_path / "cut" / ingests.WORK).iterdir())
    assert not (tmp_path / "cut" / "manifest.json").exists()
    records[0].unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in records[1:]}
    shutil.copytree(tmp_path / "cut" / ingests.WORK, tmp_path / "before")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingests, "_drop_duplicates", stop)
        ingest(source, [], str(tmp_path / "cut"), SETTINGS)
    assert {name: (tmp_path / "cut" / ingests.WORK / name).stat().st_mtime_ns for name in kept} == kept
    again = ingest(source, [], str(tmp_path / "cut"), SETTINGS)
    assert again.data_version == whole.data_version
    assert [file.sha256 for file in again.files] == [file.sha256 for file in whole.files]


def test_bad_files_are_named_and_copies_set_aside(ray_here: None, bad_input: Path, tmp_path: Path) -> None:
    source, _ = read_folder(str(bad_input), None, None, False)
    manifest = ingest(source, [], str(tmp_path / "out"), WriteSettings())
    rejected = {
        row["image_id"]: row["reason"] for row in pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    }
    assert manifest.rows + len(rejected) == len(source.rows)
    assert rejected["ct_slice.dcm"].startswith("modality CT")
    assert "chest" in rejected["jpeg2000_extremity.dcm"]
    copies = {"exact_copy.jpg", "Ünïcode name (1).JPG"}
    assert len(copies & set(rejected)) == 1
    kept = [
        name for file in manifest.files for name in pq.read_table(tmp_path / "out" / file.path)["image_id"].to_pylist()
    ]
    assert len(copies & set(kept)) == 1


def test_another_data_set_is_not_overwritten(ray_here: None, phantom_folder: Path, tmp_path: Path) -> None:
    source, _ = read_folder(str(phantom_folder), "labels.csv", None, False)
    first = ingest(source, [], str(tmp_path / "out"), SETTINGS)
    assert ingest(source, [], str(tmp_path / "out"), SETTINGS) == first
    with pytest.raises(UserError, match="another data set"):
        ingest(source, [], str(tmp_path / "out"), WriteSettings(seed=1))
