"""Tables as users write them, and what they are told when something is wrong."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from chexworld_ray.errors import UserError
from chexworld_ray.shards.ingest import check_patients, find_duplicates, make_chunks
from chexworld_ray.shards.sources.folder import read_folder
from chexworld_ray.shards.writer import ChunkRecord, WriteSettings, split_of, write_chunk
from chexworld_ray.storage import place


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (80, 90), np.uint8)
    return cv2.imencode(".png", cv2.GaussianBlur(pixels, (0, 0), 2))[1].tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.PNG", "deep/c.png")):
        (tmp_path / "in" / name).write_bytes(picture(number))
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    return tmp_path / "in"


def table(folder: Path, text: str) -> None:
    (folder / "labels.csv").write_text(text)


def test_without_table_every_file_is_a_row(folder: Path) -> None:
    source, _ = read_folder(str(folder), None, None, False)
    assert [row.image_id for row in source.rows] == ["a.png", "b.PNG", "broken.png", "deep/c.png"]


def test_columns_are_told_apart(folder: Path) -> None:
    table(
        folder,
        "file,patient,dataset,split,view,pneumonia,edema,age,sex,empty\n"
        "a.png,p1,x,train,AP,1,-1,61,F,\nb.PNG,p2,y,holdout,LATERAL,0,,7,M,\n",
    )
    source, _ = read_folder(str(folder), "labels.csv", None, False)
    assert source.columns.labels == ("pneumonia", "edema", "empty")
    assert source.columns.meta == (("age", "number"), ("sex", "text"))
    first, second = source.rows
    assert (first.dataset, first.patient_id, first.labels) == ("x", "p1", {"pneumonia": 1.0, "edema": -1.0})
    assert (second.split, second.view, second.labels) == ("holdout", "LATERAL", {"pneumonia": 0.0})
    assert first.meta == {"age": 61.0, "sex": "F"}


def test_label_columns_override(folder: Path) -> None:
    table(folder, "path,grade,flag\na.png,3,1\nb.PNG,2,0\n")
    source, _ = read_folder(str(folder), "labels.csv", ("grade",), False)
    assert source.columns.labels == ("grade",)
    assert source.columns.meta == (("flag", "number"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,label\na.png,1\n", "no column named path"),
        ("path\n", "no rows"),
        ("path,label\na.png\n", "line 2"),
        ("path\na.png\na.png\n", "line 3 names 'a.png' again"),
        ("path\na.png\ngone.png\n", "1 of 2 rows name files that are not there, first line 3"),
        ("path,landmarks\na.png,{\n", "not a JSON list"),
    ],
)
def test_a_wrong_table_is_one_clear_line(folder: Path, text: str, words: str) -> None:
    table(folder, text)
    with pytest.raises(UserError, match=words) as caught:
        read_folder(str(folder), "labels.csv", None, False)
    assert "\n" not in str(caught.value)


def test_missing_rows_can_be_set_aside(folder: Path) -> None:
    table(folder, "path\na.png\ngone.png\n")
    source, missing = read_folder(str(folder), "labels.csv", None, True)
    assert [row.image_id for row in source.rows] == ["a.png"]
    assert missing[0]["image_id"] == "gone.png"


def test_a_patient_in_two_splits_is_refused(folder: Path) -> None:
    table(folder, "path,patient,split\na.png,p1,train\nb.PNG,p1,test\n")
    source, _ = read_folder(str(folder), "labels.csv", None, False)
    with pytest.raises(UserError, match="'p1' in test and train"):
        check_patients(source)


def test_chunks_name_bad_files_and_go_on(folder: Path, tmp_path: Path) -> None:
    source, _ = read_folder(str(folder), None, None, False)
    (chunk,) = make_chunks(source, WriteSettings())
    record = write_chunk(chunk.index, chunk.rows, source.columns, WriteSettings(), place(str(tmp_path / "out")))
    assert sum(file.rows for file in record.files) == 3
    assert [row["reason"] for row in record.rejected] == ["not an image"]
    assert ChunkRecord.from_dict(record.to_dict()) == record


def test_chunks_are_recognised_by_another_process(folder: Path) -> None:
    """Resuming rests on fingerprints, so they must not hold anything of this process."""
    code = (
        "import sys\n"
        "from chexworld_ray.shards.sources.folder import read_folder\n"
        "from chexworld_ray.shards.ingest import make_chunks\n"
        "from chexworld_ray.shards.writer import WriteSettings\n"
        "source, _ = read_folder(sys.argv[1], None, None, False)\n"
        "print(*(chunk.fingerprint for chunk in make_chunks(source, WriteSettings())))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    source, _ = read_folder(str(folder), None, None, False)
    assert elsewhere.stdout.split() == [chunk.fingerprint for chunk in make_chunks(source, WriteSettings())]
    source.rows.pop()
    assert elsewhere.stdout.split() != [chunk.fingerprint for chunk in make_chunks(source, WriteSettings())]


def test_of_two_copies_the_one_outside_train_stays() -> None:
    def image(name: str, split: str) -> dict[str, str]:
        return {
            "image_id": name,
            "sha256": "same",
            "dataset": "x",
            "patient_id": name,
            "split": split,
            "file": f"{split}.parquet",
        }

    record = ChunkRecord([], [image("a", "train"), image("b", "test")], [], (0.0, 0.0, 0.0))
    assert find_duplicates([record]) == {"train.parquet": {"a": "b"}}


def test_splits_by_hash_have_the_asked_sizes() -> None:
    settings = WriteSettings(val_fraction=0.1, test_fraction=0.2)
    splits = [split_of(f"patient {number}", settings) for number in range(4000)]
    assert abs(splits.count("test") / 4000 - 0.2) < 0.03
    assert abs(splits.count("val") / 4000 - 0.1) < 0.03
    assert splits[:50] == [split_of(f"patient {number}", settings) for number in range(50)]
