"""Tables as users write them, and what they are told when something is wrong."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexworld_ray.errors import UserError
from chexworld_ray.shards.identify import split_of
from chexworld_ray.shards.identity import Pseudonyms
from chexworld_ray.shards.ingest import check_patients, make_chunks, unsqueeze
from chexworld_ray.shards.records import load_record, save_record
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import TRAIN_VAL, MaskSource, SourceRow, pack, unpack
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.shards.writer import write_chunk
from chexworld_ray.storage import place

KEY = Pseudonyms(b"a key for tests")


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


def read(folder: Path, label_columns: tuple[str, ...] | None = None, skip_missing: bool = False) -> list[SourceRow]:
    source = read_source(str(folder), labels="labels.csv", label_columns=label_columns, skip_missing=skip_missing)
    return list(source)


def test_without_table_every_candidate_is_a_row_and_the_rest_is_counted(folder: Path) -> None:
    for name in ("notes.txt", "labels.csv", ".DS_Store", "masks/a.png", "deep/c_mask.png", "NOSUFFIX"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    source = read_source(str(folder))
    assert [row.image_id for row in source] == ["NOSUFFIX", "a.png", "b.PNG", "broken.png", "deep/c.png"]
    assert source.found == 5
    assert source.ignored == {"csv": 1, "hidden": 1, "mask": 2, "txt": 1}


def test_columns_are_told_apart(folder: Path) -> None:
    table(
        folder,
        "file,patient,dataset,split,view,pneumonia,edema,age,sex,empty\n"
        "a.png,p1,x,train,AP,1,-1,61,F,\nb.PNG,p2,y,holdout,LATERAL,0,,7,M,\n",
    )
    source = read_source(str(folder), labels="labels.csv")
    assert source.columns.labels == ("pneumonia", "edema", "empty")
    assert source.columns.meta == (("age", "number"), ("sex", "text"))
    first, second = source
    assert (first.dataset, first.patient_id, first.labels) == ("x", "p1", {"pneumonia": 1.0, "edema": -1.0})
    assert (second.split, second.view, second.labels) == ("holdout", "LATERAL", {"pneumonia": 0.0})
    assert first.meta == {"age": 61.0, "sex": "F"}
    assert source.ignored == {"csv": 1, "unlisted": 2}


def test_tables_come_with_marks_blanks_and_quotes(folder: Path) -> None:
    text = 'path,kind,boxes,\na.png, "two\nlines" ,"[{""label"": ""x"", ""x"": 1, ""y"": 2, ""w"": 3, ""h"": 4}]",\n'
    (folder / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.replace(' "two\nlines" ', '"two\nlines"').encode())
    (row,) = read(folder)
    assert row.meta == {"kind": "two\nlines"}
    assert row.boxes == [{"label": "x", "x": 1, "y": 2, "w": 3, "h": 4}]


def test_label_columns_override(folder: Path) -> None:
    table(folder, "path,grade,flag\na.png,3,1\nb.PNG,2,0\n")
    source = read_source(str(folder), labels="labels.csv", label_columns=("grade",))
    assert source.columns.labels == ("grade",)
    assert source.columns.meta == (("flag", "number"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,label\na.png,1\n", "no column named path"),
        ("path\n", "no rows"),
        ("path,label\na.png\n", "line 2"),
        ("path\na.png\na.png\n", "rows 1 and 2 name the same image 'a.png'"),
        ("path\na.png\ngone.png\n", "1 of 2 rows name files that are not there, first gone.png .row 2"),
        ("path,landmarks\na.png,{\n", "not a JSON list"),
        ("path,split\na.png,../x\n", "line 2: the split is not a word"),
    ],
)
def test_a_wrong_table_is_one_clear_line(folder: Path, text: str, words: str) -> None:
    table(folder, text)
    with pytest.raises(UserError, match=words) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_words_for_splits_are_understood(folder: Path) -> None:
    table(folder, "path,split\na.png,Training\nb.PNG,validate\ndeep/c.png,TEST\n")
    assert [row.split for row in read(folder)] == ["train", "val", "test"]


def test_missing_rows_can_be_set_aside_and_count_as_found(folder: Path) -> None:
    table(folder, "path\na.png\ngone.png\n")
    source = read_source(str(folder), labels="labels.csv", skip_missing=True)
    assert [row.image_id for row in source] == ["a.png"]
    assert [(row.source_path, row.reason) for row in source.set_aside] == [("gone.png", "missing file")]
    assert source.found == 2


def test_a_table_for_an_owners_layout_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="--labels, --label-columns and --keep-columns are for plain folders"):
        read_source(str(folder), "nih14", labels="labels.csv")


def test_a_patient_in_two_splits_is_refused(folder: Path) -> None:
    table(folder, "path,patient,split\na.png,p1-JaneDoe,train\ndeep/c.png,p2,val\nb.PNG,p1-JaneDoe,test\n")
    with pytest.raises(UserError, match=r"the first in row 1 \(train\) and row 3 \(test\)") as caught:
        check_patients(read_source(str(folder), labels="labels.csv"))
    assert "JaneDoe" not in str(caught.value), "a message ends up in logs"


def test_chunks_name_bad_files_and_go_on(folder: Path, tmp_path: Path) -> None:
    source = read_source(str(folder))
    (chunk,) = make_chunks(source, WriteSettings())
    out = place(str(tmp_path / "out"))
    assert unsqueeze(chunk.squeeze()) == chunk.rows
    record = write_chunk("01-00000", chunk.rows, place(str(folder)), source.columns, WriteSettings(), KEY, out)
    assert sum(file.rows for file in record.files) == record.images.num_rows == 3
    assert [(row.source_path, row.reason) for row in record.rejected] == [("broken.png", "not an image")]
    save_record(out / "record", record)
    assert load_record(out / "record") == record


def test_chunks_are_recognised_by_another_process(folder: Path) -> None:
    """Resuming rests on fingerprints, so they must not hold anything of this process."""
    code = (
        "import sys\n"
        "from chexworld_ray.shards.sources.registry import read_source\n"
        "from chexworld_ray.shards.ingest import make_chunks\n"
        "from chexworld_ray.shards.settings import WriteSettings\n"
        "print(*(chunk.fingerprint for chunk in make_chunks(read_source(sys.argv[1]), WriteSettings())))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    source = read_source(str(folder))
    assert elsewhere.stdout.split() == [chunk.fingerprint for chunk in make_chunks(source, WriteSettings())]
    source.packed.pop()
    assert elsewhere.stdout.split() != [chunk.fingerprint for chunk in make_chunks(source, WriteSettings())]


@given(
    st.builds(
        SourceRow,
        image_id=st.text(),
        path=st.text(),
        dataset=st.text(),
        patient_id=st.none() | st.text(),
        split=st.none() | st.sampled_from(["train", TRAIN_VAL]),
        masks=st.dictionaries(
            st.text(), st.builds(MaskSource, st.sampled_from(["files", "runs"]), st.tuples(st.text()), st.just((4, 5)))
        ),
        labels=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
        published=st.booleans(),
    )
)
def test_rows_survive_packing(row: SourceRow) -> None:
    assert unpack(pack(row)) == row


def test_splits_by_hash_have_the_asked_sizes() -> None:
    settings = WriteSettings(val_fraction=0.1, test_fraction=0.2)
    splits = [split_of(f"patient {number}", settings) for number in range(4000)]
    assert abs(splits.count("test") / 4000 - 0.2) < 0.03
    assert abs(splits.count("val") / 4000 - 0.1) < 0.03
    assert splits[:50] == [split_of(f"patient {number}", settings) for number in range(50)]
    assert splits[:50] != [split_of(f"patient {number}", replace(settings, split_seed=1)) for number in range(50)]
    owners = [split_of(f"patient {number}", settings, TRAIN_VAL) for number in range(4000)]
    assert "test" not in owners
    assert abs(owners.count("val") / 4000 - 0.1) < 0.03
