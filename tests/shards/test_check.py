"""`inspect --check` finds whatever is spoilt, and only that."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chexworld_ray.cli import main
from chexworld_ray.errors import UserError
from chexworld_ray.shards.check import problems
from chexworld_ray.shards.manifest import REJECTED, Manifest, load
from chexworld_ray.shards.reader import read_images
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.registry import read_source

Edit = Callable[[pa.Table], pa.Table]


@pytest.fixture
def folder(phantom_folder: Path, tmp_path: Path, write_set: Callable[[Source, Path, WriteSettings], Manifest]) -> Path:
    source = read_source(str(phantom_folder), labels="labels.csv")
    write_set(source, tmp_path, WriteSettings(row_group_images=16))
    pq.write_table(
        pa.table({"source_path": [], "reason": [], "detail": [], "release": pa.array([], pa.int32())}),
        tmp_path / REJECTED,
    )
    return tmp_path


def spoil(folder: Path, edit: Edit) -> str:
    """Change the first train file, so that its hash is right and its content is not; gives its name."""
    manifest = json.loads((folder / "manifest.json").read_text())
    record = next(file for file in manifest["files"] if file["split"] == "train")
    path = folder / record["path"]
    table = edit(pq.read_table(path))
    pq.write_table(table, path, row_group_size=record["row_groups"][0])
    record |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return record["path"]


def replaced(name: str, change: Callable[[list], list]) -> Edit:
    def edit(table: pa.Table) -> pa.Table:
        column = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), table.schema.field(name), column)

    return edit


def test_a_sound_data_set_has_no_problems(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(load(str(folder))) == []
    assert main(["inspect", str(folder), "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (replaced("image", lambda images: [images[0][:-400], *images[1:]]), "can't be decoded"),
        (replaced("mask_lung", lambda masks: [b"no picture", *masks[1:]]), "mask_lung of image"),
        (replaced("height", lambda sides: [sides[0] + 1, *sides[1:]]), " pixels"),
        (replaced("split", lambda splits: ["test", *splits[1:]]), "rows of other splits than train"),
        (replaced("view", lambda views: ["lateral", *views[1:]]), "rows of other views than frontal"),
        (replaced("label_effusion", lambda labels: [-1.0, *labels[1:]]), "labels or flags are not those"),
        (replaced("image_id", lambda ids: [ids[1], *ids[1:]]), "stands in 2 rows"),
        (lambda table: table.slice(1), "row groups of"),
    ],
)
def test_spoilt_content_is_found(folder: Path, edit: Edit, words: str) -> None:
    name = spoil(folder, edit)
    found = problems(load(str(folder)))
    assert any(words in line for line in found), found
    assert all(name in line or "stands in" in line for line in found), found


def test_a_patient_in_two_splits_is_found(folder: Path) -> None:
    other = next(file for file in load(str(folder)).files if file.split == "test")
    stranger = pq.read_table(folder / other.path)["patient_id"][0].as_py()
    spoil(folder, replaced("patient_id", lambda ids: [stranger, *ids[1:]]))
    (line,) = problems(load(str(folder)))
    assert line.startswith("a patient stands in more than one split: images ")
    assert stranger not in line


def test_lost_and_changed_files_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = load(str(folder)).files
    (folder / first.path).unlink()
    data = bytearray((folder / second.path).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / second.path).write_bytes(data)
    found = problems(load(str(folder)))
    assert found[0] == f"{first.path}: missing"
    assert found[1].startswith(f"{second.path}: not the bytes that were written")
    assert main(["inspect", str(folder), "--check"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("chexworld: ")


def test_rejects_must_add_up(folder: Path) -> None:
    (folder / REJECTED).unlink()
    (line,) = problems(load(str(folder)))
    assert line.startswith(f"{REJECTED}: can't be used (")
    assert "no such file" in line


def test_a_folder_in_the_place_of_a_shard_is_one_line(folder: Path) -> None:
    manifest = load(str(folder))
    file = folder / manifest.files[0].path
    file.unlink()
    file.mkdir()
    assert any(line.startswith(f"{manifest.files[0].path}: can't be read (") for line in problems(manifest))
    with pytest.raises(UserError, match="can't be read"):
        read_images(manifest)
