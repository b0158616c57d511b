"""Tables as users write them, and what they are told when something is wrong."""

import csv
import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import layouts
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexworld_ray.errors import UserError
from chexworld_ray.shards.identify import rejected_aside, split_of
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


BAD_CELLS = [
    ("boxes", '[{"label": "n", "x": 1e999, "y": NaN, "w": 1, "h": 1}]', "entry 1: 'x' is no number of pixels"),
    ("boxes", '[{"label": "n", "x": NaN, "y": 1, "w": 1, "h": 1}]', "'x' is no number"),
    ("boxes", '[{"label": "n", "x": %s, "y": 1, "w": 1, "h": 1}]' % ("9" * 400), "'x' is no number"),
    ("boxes", '[{"label": "n", "x": %s, "y": 1, "w": 1, "h": 1}]' % ("9" * 5000), "not a JSON list"),
    ("boxes", '[{"label": "n", "x": null, "y": 1, "w": 1, "h": 1}]', "'x' is no number"),
    ("boxes", '[{"label": "n", "x": "abc", "y": 1, "w": 1, "h": 1}]', "'x' is no number"),
    ("boxes", '[{"label": "n", "x": true, "y": 1, "w": 1, "h": 1}]', "'x' is no number"),
    ("boxes", '[{"label": "n", "x": [1], "y": 1, "w": 1, "h": 1}]', "'x' is no number"),
    ("boxes", '[{"label": {}, "x": 1, "y": 1, "w": 1, "h": 1}]', "'label' is no text"),
    ("boxes", '[{"label": "\\ud800", "x": 1, "y": 1, "w": 1, "h": 1}]', "'label' is no text"),
    ("boxes", '[{"label": "n", "x": 1, "y": 1, "w": 1, "h": 1}, {"x": 1}]', "entry 2 has no 'label'"),
    ("boxes", "[1]", "entry 1 is no JSON object"),
    ("boxes", '{"x": 1}', "not a JSON list"),
    ("boxes", "3", "not a JSON list"),
    ("boxes", "somewhere", "not a JSON list"),
    ("boxes", "[" * 100_000, "not a JSON list"),
    ("boxes", '[{"label":' * 50_000, "not a JSON list"),
    ("landmarks", '[{"name": "n"}]', "entry 1 has no 'row'"),
    ("landmarks", '[{"name": "n", "row": -1e300, "col": 1}]', "'row' is no number"),
    ("landmarks", "[[]]", "entry 1 is no JSON object"),
    ("grade", "1e999", "holds no finite number"),
    ("grade", "severe", "holds no number"),
    ("age", "1e999", "holds no finite number"),
    ("age", "-inf", "holds no finite number"),
]


@pytest.mark.parametrize(("column", "cell", "why"), BAD_CELLS)
def test_a_bad_cell_sets_its_image_aside_and_names_its_place(folder: Path, column: str, cell: str, why: str) -> None:
    good = {"boxes": "[]", "landmarks": "", "grade": "2", "age": "61"}
    rows = {"a.png": good, "b.PNG": good | {column: cell}, "deep/c.png": good}
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", *good], *([path, *cells.values()] for path, cells in rows.items())])
    source = read_source(str(folder), labels="labels.csv", label_columns=("grade",))
    assert [row.image_id for row in source] == ["a.png", "deep/c.png"]
    (aside,) = source.set_aside
    assert (aside.source_path, aside.reason) == ("b.PNG", "bad table cell")
    assert aside.detail.startswith(f"labels.csv, row 2: column {column!r} ")
    assert why in aside.detail
    assert source.found == 3
    assert source.ignored == {"csv": 1, "unlisted": 1}


def test_where_all_cells_are_bad_one_line_says_so(folder: Path) -> None:
    table(folder, "path,boxes\na.png,[1]\nb.PNG,[2]\n")
    with pytest.raises(
        UserError, match=r"none of the 2 images .* first: bad table cell \(labels.csv, row 1: column 'boxes'"
    ):
        read(folder)


def test_boxes_of_an_owners_table_are_looked_at_too(tmp_path: Path) -> None:
    ids = layouts.nih14(tmp_path)
    boxes = tmp_path / "BBox_List_2017.csv"
    boxes.write_text(boxes.read_text().replace("10.5", "nan"))
    source = read_source(str(tmp_path), "nih14")
    (aside,) = source.set_aside
    assert aside.source_path.endswith(ids[2])
    assert "boxes: entry 1: 'x' is no number of pixels" in aside.detail


def test_a_number_that_is_none_is_a_missing_one(folder: Path) -> None:
    table(folder, "path,age\na.png,nan\nb.PNG,61\n")
    assert [row.meta for row in read(folder)] == [{}, {"age": 61.0}]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("path,note\na.png,x\n".encode("utf-16"), "UTF-16; save it as CSV UTF-8"),
        (b"path,kind\na.png,caf\xe9\n", r"line 2 is not UTF-8 \(byte 0xe9\)"),
        (b"path,kind\nb.PNG,x\na.png,a\0b\n", "line 3 holds a NUL byte"),
        (b"path,x,x\na.png,1,2\n", "2 columns are named 'x'"),
        (b"path,kind\na.png,Jane,Doe\n", "line 2 has 3 cells, the header 2; a cell with a comma"),
        (b"path,split\na.png,Jane Doe\n", "line 2: the split is not a word"),
    ],
)
def test_a_table_that_is_no_text_is_one_line_that_quotes_nothing(folder: Path, data: bytes, words: str) -> None:
    (folder / "labels.csv").write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert "Jane" not in str(caught.value)


def test_a_name_of_a_column_may_be_broken_over_lines(folder: Path) -> None:
    table(folder, 'path,"view\nposition"\na.png,x\n')
    assert read(folder)[0].meta == {"view position": "x"}


@pytest.fixture
def unlisted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, one of whose sub-folders can't be listed; whoever runs the tests may be root, whom nothing stops."""
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("chexworld_ray.folders.os.scandir", refuse)
    return folder


def test_a_folder_that_cannot_be_listed_counts_and_is_told(unlisted: Path) -> None:
    source = read_source(str(unlisted))
    (aside,) = source.set_aside
    assert (aside.source_path, aside.reason, aside.detail) == ("deep/", "folder can't be listed", "Permission denied")
    assert len(list(source)) == 3
    assert source.found == 4
    table(unlisted, "path\na.png\n")
    assert len(read_source(str(unlisted), labels="labels.csv").set_aside) == 1, "with a table as well"
    with pytest.raises(UserError, match="deep: can't be listed: Permission denied"):
        read_source(str(unlisted / "deep"))


def test_the_name_of_an_unlisted_folder_of_a_hospital_is_hashed(unlisted: Path) -> None:
    (unlisted / "a.dcm").write_bytes(b"x")
    (aside,) = read_source(str(unlisted)).set_aside
    assert rejected_aside(aside, KEY, WriteSettings()).source_path == KEY.path("deep/")


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
