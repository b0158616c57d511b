"""Ingest on Ray Data: complete, resumable, deterministic, appended to, and silent about who is in it."""

import errno
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from bad_files import expectations
from dicoms import IDENTIFIERS, dicom
from ray.exceptions import RayTaskError

from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.runtime import ingest as ingests
from chexworld_ray.runtime.ingest import ingest
from chexworld_ray.runtime.ingest_benchmark import benchmark_ingest
from chexworld_ray.shards.identity import KEY_VARIABLE, Pseudonyms
from chexworld_ray.shards.manifest import Manifest, load
from chexworld_ray.shards.originals import originals
from chexworld_ray.shards.settings import CleanSettings, WriteSettings
from chexworld_ray.shards.source import Source, pack
from chexworld_ray.shards.sources.listing import list_files
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.storage import place
from chexworld_ray.training import run

SETTINGS = WriteSettings(row_group_images=16)


@pytest.fixture
def phantoms(phantom_folder: Path) -> Source:
    return read_source(str(phantom_folder), labels="labels.csv")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where random keys are kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    return tmp_path / "state" / "chexworld_ray"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(manifest: Manifest) -> list[dict[str, object]]:
    return [row for file in manifest.files for row in pq.read_table(manifest.root.path + "/" + file.path).to_pylist()]


def rejected_of(out: Path) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(out / "rejected.parquet").to_pylist()
    return {row["source_path"]: (row["reason"], row["detail"]) for row in rows}


def test_a_folder_becomes_a_data_set(ray_here: None, phantoms: Source, tmp_path: Path) -> None:
    manifest = ingest(phantoms, str(tmp_path / "out"), SETTINGS)
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
    assert set(contents(tmp_path / "out")) == {
        "manifest.json",
        "manifest-00001.json",
        "rejected.parquet",
        *(file.path for file in manifest.files),
    }
    assert manifest.summary()["ignored"] == {"csv": 1, "mask": 192}


def test_an_interrupted_ingest_goes_on_and_ends_with_the_same_bytes(
    ray_here: None, phantoms: Source, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ingest(phantoms, str(tmp_path / "whole"), SETTINGS)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingests, "settle", stop)
        ingest(phantoms, str(cut), SETTINGS)
    records = sorted((cut / ingests.WORK).glob("*.record.parquet"))
    assert not (cut / "manifest.json").exists()
    records[0].unlink()
    lost = next(cut.glob("train-*.parquet"))
    lost.unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in cut.glob("*.parquet")}
    shutil.copytree(cut, tmp_path / "before")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingests, "_write_rejected", stop)
        ingest(phantoms, str(cut), SETTINGS)
    redone = {name for name, at in kept.items() if (cut / name).stat().st_mtime_ns != at}
    assert len(redone) < len(kept) / 2
    again = ingest(phantoms, str(cut), SETTINGS)
    assert contents(cut) == contents(tmp_path / "whole")
    assert again.data_version == whole.data_version
    assert not list(state.iterdir()), "a random key is forgotten when the ingest is complete"


def test_one_patient_with_most_images_is_told(
    ray_here: None, phantoms: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [replace(row, patient_id="Needle" if at < 14 else row.patient_id) for at, row in enumerate(phantoms)][:24]
    manifest = ingest(replace(phantoms, packed=[pack(row) for row in rows]), str(tmp_path / "out"), SETTINGS)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "one patient has 14 of 24 images" in told
    assert "Needle" not in told
    assert [release.patient_rule for release in manifest.releases] == [2]


def test_what_an_abandoned_ingest_left_is_removed(
    ray_here: None, phantoms: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingests, "settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        ingest(phantoms, str(tmp_path / "out"), replace(SETTINGS, test_fraction=0.5))
    (tmp_path / "out" / "mine.parquet").write_bytes(b"the user's own")
    manifest = ingest(phantoms, str(tmp_path / "out"), SETTINGS)
    found = {path.name for path in (tmp_path / "out").glob("*.parquet")}
    assert found == {"mine.parquet", "rejected.parquet", *(file.path for file in manifest.files)}


@pytest.mark.parametrize("files", ["made_bad_files", pytest.param("collected_bad_files", marks=pytest.mark.nightly)])
def test_nothing_is_lost_of_the_bad_files(
    ray_here: None, files: str, request: pytest.FixtureRequest, tmp_path: Path, state: Path
) -> None:
    folder: Path = request.getfixturevalue(files)
    source, out = read_source(str(folder)), tmp_path / "out"
    settings = WriteSettings(keep_paths=True, clean=CleanSettings(near_duplicates=8))
    manifest = ingest(source, str(out), settings)
    rejected = rejected_of(out)
    assert manifest.rows + len(rejected) == source.found == 27
    assert manifest.summary()["ignored"] == {"csv": 1, "md": 1}
    assert rejected["ct_slice.dcm"][0] == "modality"
    assert rejected["jpeg2000_extremity.dcm"] == ("body part", "EXTREMITY, not chest; --body-parts names what is taken")
    copies = {"exact_copy.jpg", "Ünïcode name (1).JPG"}
    (dropped,) = copies & set(rejected)
    (kept,) = copies & {row["image_id"] for row in rows_of(manifest)}
    assert rejected[dropped] == ("duplicate", kept)
    assert {name for name in rejected if "reject" not in expectations(folder)[name]} == {dropped}


def test_a_duplicate_of_an_evaluation_image_is_not_trained_on(ray_here: None, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_pictures(folder, {"a.png": 0, "b.png": 0, "c.png": 1})
    (folder / "labels.csv").write_text("path,split\na.png,train\nb.png,test\nc.png,train\n")
    settings = replace(SETTINGS, clean=CleanSettings(crop_borders=False))
    manifest = ingest(read_source(str(folder), labels="labels.csv"), str(tmp_path / "out"), settings)
    assert {(row["image_id"], row["split"]) for row in rows_of(manifest)} == {("b.png", "test"), ("c.png", "train")}
    assert rejected_of(tmp_path / "out") == {"a.png": ("duplicate", "b.png")}
    pixels = np.concatenate([np.asarray(make_phantom(7, n, 96).image_HW).ravel() for n in (0, 1)]) / 255
    assert abs(manifest.grey_mean - pixels.mean()) < 0.01, "a dropped copy does not count in the statistics"


def write_pictures(folder: Path, numbers: dict[str, int]) -> None:
    for name, number in numbers.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), make_phantom(7, number, 96).image_HW)


def test_another_data_set_is_not_overwritten(ray_here: None, phantoms: Source, tmp_path: Path) -> None:
    first = ingest(phantoms, str(tmp_path / "out"), SETTINGS)
    assert ingest(phantoms, str(tmp_path / "out"), SETTINGS) == first
    with pytest.raises(UserError, match="another data set is there"):
        ingest(phantoms, str(tmp_path / "out"), replace(SETTINGS, split_seed=1))
    with pytest.raises(UserError, match=r"other settings: split_seed 0 \(now 1\)"):
        ingest(phantoms, str(tmp_path / "out"), replace(SETTINGS, split_seed=1), append=True)
    with pytest.raises(UserError, match="no data set at"):
        ingest(phantoms, str(tmp_path / "elsewhere"), SETTINGS, append=True)


def test_a_release_is_appended_and_the_old_version_stays(ray_here: None, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    write_pictures(tmp_path / "one", {f"p{n}.png": n for n in range(6)})
    write_pictures(tmp_path / "two", {"copy.png": 2, "new.png": 8, "p3.png": 9})
    first = ingest(read_source(str(tmp_path / "one")), out, SETTINGS)
    before = {name: data for name, data in contents(tmp_path / "out").items() if name.endswith(("1.json", "0.parquet"))}
    second = ingest(read_source(str(tmp_path / "two")), out, SETTINGS, append=True)
    assert (second.version, second.rows) == (2, 7)
    assert rejected_of(tmp_path / "out")["copy.png"] == ("duplicate", "p2.png")
    assert rejected_of(tmp_path / "out")["p3.png"][0] == "id taken"
    assert load(out) == second
    assert load(out + "/manifest-00001.json") == first
    assert contents(tmp_path / "out").items() >= before.items(), "files of the first release are not touched"
    assert {row["image_id"] for row in rows_of(second)} == {*(f"p{n}.png" for n in range(6)), "new.png"}
    assert ingest(read_source(str(tmp_path / "two")), out, SETTINGS, append=True) == second, "done already"
    root = place(str(tmp_path / "run"))
    run.open_or_create(root, RunSettings(), [first], first.rows)
    with pytest.raises(UserError, match=r"and data \(.*manifest-00001.json\)"):
        run.open_or_create(root, RunSettings(), [second], second.rows)
    run.open_or_create(root, RunSettings(), [load(first.url)], first.rows)
    summary = second.summary()
    assert summary["images"] + sum(summary["rejected"].values()) == summary["found"] == 9


def hospital(folder: Path) -> Source:
    """Four DICOM files of two patients, two of them in a folder that is named like the patient; one is no chest."""
    for number in range(4):
        other: dict[str, Any]
        other = {} if number < 2 else {"PatientID": "77", "PatientName": "Doe^Jo", "BodyPartExamined": "CHEST"}
        other |= {"BodyPartExamined": "KNEE"} if number == 1 else {}
        name = f"MRN-0042-7781/{number}.dcm" if number < 2 else f"x/{number}.dcm"
        pixels = make_phantom(5, number, 96).image_HW
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(dicom(pixels, SOPInstanceUID=f"1.2.3.{number}", **other))
    return read_source(str(folder))


def test_no_identifier_leaves_the_decoder(
    ray_here: None, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a secret of the hospital")
    source = hospital(tmp_path / "in")
    manifest = ingest(source, str(tmp_path / "out"), SETTINGS)
    told = b"".join(contents(tmp_path / "out").values()) + "".join(capfd.readouterr()).encode()
    for value in [*IDENTIFIERS.values(), "1.2.3.", "Wilhelmina", "Doe", "a secret of the hospital"]:
        assert value.encode() not in told, value
    rows = rows_of(manifest)
    assert len(rows) == 3
    assert len({row["patient_id"] for row in rows}) == 2
    key = Pseudonyms(b"a secret of the hospital")
    assert {row["source_path"] for row in rows} >= {key.path("x/2.dcm"), key.path("x/3.dcm")}
    assert set(rejected_of(tmp_path / "out")) == {key.path("MRN-0042-7781/1.dcm")}
    found = originals(manifest, list_files(str(tmp_path / "in")), key)
    assert (key.path("MRN-0042-7781/1.dcm"), "MRN-0042-7781/1.dcm", "body part") in set(found)
    assert manifest.key is not None
    assert not manifest.key.random
    monkeypatch.setenv(KEY_VARIABLE, "another secret, just as long")
    write_pictures(tmp_path / "more", {"a.png": 3})
    with pytest.raises(UserError, match="hashed with a key with fingerprint"):
        ingest(read_source(str(tmp_path / "more")), str(tmp_path / "out"), SETTINGS, append=True)


def test_without_a_key_a_random_one_lasts_as_long_as_the_ingest(
    ray_here: None,
    tmp_path: Path,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = hospital(tmp_path / "in"), str(tmp_path / "out")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingests, "settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        ingest(source, out, SETTINGS)
    (kept,) = state.iterdir()
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(state).st_mode) == 0o700
    with monkeypatch.context() as patch, pytest.raises(UserError, match="hashed identifiers with another key"):
        patch.setenv(KEY_VARIABLE, "a secret of the hospital")
        ingest(source, out, SETTINGS)
    manifest = ingest(source, out, SETTINGS)
    assert not kept.exists()
    assert manifest.key is not None
    assert manifest.key.random
    assert "no images can be added to this set later" in capsys.readouterr().err
    write_pictures(tmp_path / "more", {"a.png": 3})
    with pytest.raises(UserError, match="a random key that was not kept"):
        ingest(read_source(str(tmp_path / "more")), out, SETTINGS, append=True)


def test_a_set_without_dicom_needs_no_key_to_grow(ray_here: None, tmp_path: Path, state: Path) -> None:
    write_pictures(tmp_path / "one", {"a.png": 1})
    write_pictures(tmp_path / "two", {"b.png": 2})
    ingest(read_source(str(tmp_path / "one")), str(tmp_path / "out"), SETTINGS)
    assert ingest(read_source(str(tmp_path / "two")), str(tmp_path / "out"), SETTINGS, append=True).rows == 2


def test_names_that_are_no_text_are_spelled_out(ray_here: None, tmp_path: Path) -> None:
    """Bytes that are no UTF-8, as archives from elsewhere leave them on a disk."""
    write_pictures(tmp_path / "in" / "patient 7", {"a.png": 1})
    folder = os.fsencode(tmp_path / "in")
    os.rename(folder + b"/patient 7/a.png", folder + b"/patient 7/caf\xe9.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    os.rename(folder + b"/b.png", folder + b"/\xff.png")
    manifest = ingest(read_source(str(tmp_path / "in")), str(tmp_path / "out"), SETTINGS)
    (row,) = rows_of(manifest)
    assert row["image_id"] == row["source_path"] == "patient 7/caf\\xe9.png"
    assert row["patient_id"] == "patient 7"
    assert rejected_of(tmp_path / "out") == {"\\xff.png": ("not an image", "text")}


def test_when_nothing_can_be_used_the_reasons_are_told(ray_here: None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 1 images could be used: empty file"):
        ingest(read_source(str(tmp_path / "in")), str(tmp_path / "out"), SETTINGS)
    assert rejected_of(tmp_path / "out") == {"a.png": ("empty file", "")}


def test_what_a_worker_cannot_write_is_one_line(
    ray_here: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray Data wraps what a worker raises, and forgets what it was."""
    write_pictures(tmp_path / "in", {"a.png": 1})
    (tmp_path / "in" / "labels.csv").write_text("path,split\na.png,train\n")
    (tmp_path / "out" / "train-unknown-01-00000.parquet" / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match=r"00000.parquet: can't be written: \w.*$"):
        ingest(read_source(str(tmp_path / "in"), labels="labels.csv"), str(tmp_path / "out"), SETTINGS)
    assert "Traceback" not in "".join(capfd.readouterr())


def full(error: type[BaseException] = OSError) -> BaseException:
    full_disk = OSError(errno.ENOSPC, "No space left on device")
    return full_disk if error is OSError else RayTaskError("work", "Traceback", full_disk)


@pytest.mark.parametrize("error", [OSError, RayTaskError])
@pytest.mark.parametrize("where", ["_key", "_run", "_write_rejected"])
def test_a_full_disk_is_one_line_and_the_ingest_goes_on_later(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], where: str
) -> None:
    """Of the driver or of a worker, whatever was being written."""
    write_pictures(tmp_path / "in", {"a.png": 1})
    source = read_source(str(tmp_path / "in"))

    def fail(*_: object) -> None:
        raise full(error)

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"^No space left on device; make room") as told:
        patch.setattr(ingests, where, fail)
        ingest(source, str(tmp_path / "out"), SETTINGS)
    assert "\n" not in str(told.value)
    assert ingest(source, str(tmp_path / "out"), SETTINGS).rows == 1


@pytest.mark.slow
def test_the_benchmark_tells_where_the_time_goes(ray_here: None) -> None:
    result = benchmark_ingest(128, 96)
    assert set(result["formats"]) == {"jpeg", "png", "dicom"}
    for told in result["formats"].values():
        parts = told["milliseconds_an_image"]
        assert sum(ms for name, ms in parts.items() if name != "all") <= parts["all"]
        assert told["pixel_work_ms"] <= parts["all"]
        assert told["images_per_second_of_a_core"] == pytest.approx(1e3 / parts["all"], rel=0.01)
        parts = told["through_ray_parts"]  # null where so few images cannot be told from the noise of a start
        assert (parts is None) == (told["other_fraction"] is None)
        if parts:
            known = sum(parts[name] for name in ("decode", "clean", "resize", "encode", "read"))
            assert told["other_fraction"] == pytest.approx(1 - known, abs=0.01)
