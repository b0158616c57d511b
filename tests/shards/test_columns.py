"""What a user's columns become: labels, numbers, texts, patients; one odd cell changes nothing in silence."""

import csv
import math
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest

from chexworld_ray.errors import UserError
from chexworld_ray.shards.ingest import check_patients
from chexworld_ray.shards.source import Source, kept_columns
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.shards.words import names_nobody, says_nothing, value_of_label

NOTHING = ["", "NaN", "nan", "NA", "N/A", "n/a", "None", "NULL", "null", "<NA>", "#N/A", "#DIV/0!", ".", "?", "unknown"]
YES = [
    "1",
    "1.0",
    "1.000",
    "+1",
    "1e0",
    "1.000000000000000000e+00",
    "1,0",
    "1,00",
    "1,0000",
    "True",
    "TRUE",
    "true",
    "yes",
    "Yes",
    "positive",
]
NO = ["0", "0.0", "-0.0", "0.000", "False", "FALSE", "no", "No", "negative", "absent"]
UNCERTAIN = ["-1", "-1.0", "-1.000", "uncertain"]
OTHER = [
    "2",
    "10",
    "0.5",
    "01",
    "-2",
    "1e1",
    "nane",
    "maybe",
    "-",
    "+",
    "x",
    "1 0",
    "1_0",
    "1,000",
    "0,000",
    "-1,000",
    "1,000e0",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 90), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), pixels)
    return tmp_path


def read(folder: Path, columns: dict[str, list[str]], label_columns: tuple[str, ...] | None = None) -> Source:
    rows = len(next(iter(columns.values())))
    columns = {"path": [f"{number:02d}.png" for number in range(rows)]} | columns
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*columns], *zip(*columns.values(), strict=True)])
    return read_source(str(folder), labels="labels.csv", label_columns=label_columns)


def last_lines(source: Source) -> list[str]:
    """What is told after the line of the columns that are kept."""
    return kept_columns(source).splitlines()[1:]


@pytest.mark.parametrize("word", NOTHING)
def test_a_cell_that_says_nothing_leaves_its_column_a_label(folder: Path, word: str) -> None:
    source = read(folder, {"opacity": ["0", "1", word, "1"]})
    assert source.columns.labels == ("opacity",)
    assert [row.labels for row in source] == [{"opacity": 0.0}, {"opacity": 1.0}, {}, {"opacity": 1.0}]
    assert "labels: opacity 3" in kept_columns(source)
    assert last_lines(source) == ([f"read as empty: opacity (1 {word})"] if word else [])


@pytest.mark.parametrize(("words", "value"), [(YES, 1.0), (NO, 0.0), (UNCERTAIN, -1.0)])
def test_all_ways_to_write_a_label_are_read(folder: Path, words: list[str], value: float) -> None:
    for word in words:
        source = read(folder, {"opacity": ["0", "1", word]})
        assert source.columns.labels == ("opacity",), word
        found = [row.labels["opacity"] for row in source]
        assert found == [0.0, 1.0, value], word
        assert math.copysign(1.0, found[2]) == (-1.0 if value < 0 else 1.0), "-0 would be a class of its own"


def test_words_that_are_read_as_labels_are_told(folder: Path) -> None:
    source = read(folder, {"effusion": ["yes", "no", "Uncertain", ""], "covid": ["y", "N", "Y", "nan"]})
    assert source.columns.labels == ("effusion", "covid")
    assert [row.labels.get("covid") for row in source] == [1.0, 0.0, 1.0, None]
    assert last_lines(source) == [
        "read as empty: covid (1 nan)",
        "words read as labels: effusion (Uncertain is -1, no is 0, yes is 1), covid (N is 0, Y is 1, y is 1)",
    ]


@pytest.mark.parametrize("word", OTHER)
def test_a_column_that_is_nearly_a_label_says_why_it_is_none(folder: Path, word: str) -> None:
    source = read(folder, {"opacity": ["0", "1", "1", word, "NaN"], "age": ["61", "NA", "7", "1", "0"]})
    assert source.columns.labels == ()
    assert source.columns.meta[1] == ("age", "number"), "a word for nothing makes no text of numbers"
    assert [row.meta.get("age") for row in source] == [61.0, None, 7.0, 1.0, 0.0]
    (told,) = [line for line in last_lines(source) if "is no label" in line]
    what = "numbers" if source.columns.meta[0] == ("opacity", "number") else "words or numbers"
    assert told.startswith(
        f"opacity is no label: 1 of 4 cells hold other {what}, first in row 4; correct that, or set these"
    )


def test_letters_are_labels_only_beside_their_opposite(folder: Path) -> None:
    source = read(
        folder, {"sex": ["F", "F", ""], "both": ["T", "F", "f"], "sexes": ["F", "F", "M"], "seen": ["y", "", ""]}
    )
    assert source.columns.labels == ("both",)
    assert source.columns.meta == (("sex", "text"), ("sexes", "text"), ("seen", "text"))
    told = [line.partition(";")[0] for line in last_lines(source) if "is no label" in line]
    assert told == [
        f"{name} is no label: {letter} alone may mean something else than yes or no"
        for name, letter in (("sex", "F"), ("seen", "Y"))
    ], "a column of two sexes is no half of a label"


def test_what_the_user_names_is_a_label_and_the_rest_is_told(folder: Path) -> None:
    source = read(folder, {"grade": ["3", "NA", "yes", "worse"], "flag": ["1", "0", "1", "0"]}, ("grade",))
    assert [row.labels for row in source] == [{"grade": 3.0}, {}, {"grade": 1.0}]
    assert [one.detail for one in source.set_aside] == ["labels.csv, row 4: column 'grade' holds no number"]
    assert last_lines(source)[-1] == "flag is no label: --label-columns does not name it"


def test_what_is_told_quotes_no_cell_of_a_person(folder: Path) -> None:
    source = read(folder, {"opacity": ["0", "1", "1", "Needle"], "site": ["a", "b", "c", "d"]})
    assert "Needle" not in kept_columns(source)
    assert "opacity" in kept_columns(source)


def test_every_column_is_named_even_where_nothing_stands_in_it(folder: Path) -> None:
    source = read(folder, {"patient": ["nan", "nan"], "view": ["", ""], "#mark": ["1", "0"], "": ["0", "1"]})
    assert kept_columns(source).splitlines() == [
        "columns kept, and of how many of 2 images: image_id from path 2, patient_id from patient 0, view 0; "
        "labels: #mark 2",
        "read as empty: patient (2 nan)",
        "not kept: columns without a name 1",
    ]


@pytest.mark.parametrize("missing", ["nan", "NA", "None", "<NA>", "-", "--", "?", "unknown", "Anonymous"])
def test_an_id_that_names_nobody_is_no_patient(folder: Path, missing: str) -> None:
    ids = ["p0", "p0", missing, missing, missing, missing]
    source = read(folder, {"patient": ids, "split": ["train", "train", "train", "train", "test", "nan"]})
    check_patients(source)
    assert [row.patient_id for row in source] == ["p0", "p0", None, None, None, None]
    assert [row.split for row in source][-1] is None, "a split of the name nan would never be trained on"
    assert f"patient (4 {missing})" in kept_columns(source)
    with pytest.raises(UserError, match="1 patients stand in more than one split"):
        check_patients(read(folder, {"patient": ["p0", "p0"], "split": ["train", "test"]}))


def test_nothing_in_a_known_column_is_nothing(folder: Path) -> None:
    names = ("source", "study", "view", "mask", "boxes", "landmarks")
    first, _ = read(folder, {name: ["nan", "None"] for name in names})
    assert (first.dataset, first.study_id, first.view) == (folder.name, None, None)
    assert (first.masks, first.boxes, first.landmarks) == ({}, [], [])


def test_an_owners_table_that_pandas_wrote_again_is_read_alike(tmp_path: Path) -> None:
    layouts.chexpert(tmp_path)
    before = list(read_source(str(tmp_path), "chexpert"))
    for name in ("train.csv", "valid.csv"):
        rows = list(csv.reader((tmp_path / name).open()))
        layouts.table(tmp_path / name, rows[0], [[cell or "NaN" for cell in row] for row in rows[1:]])
    source = read_source(str(tmp_path), "chexpert")
    assert source.set_aside == []
    assert [row.labels for row in source] == [row.labels for row in before]


def test_a_box_of_an_owner_without_its_numbers_sets_its_image_aside(tmp_path: Path) -> None:
    ids = layouts.vindr(tmp_path)
    boxes = tmp_path / "annotations" / "annotations_train.csv"
    boxes.write_text(boxes.read_text().replace("40.5", "NaN", 1).replace(",,,,", ",NaN,NaN,NaN,NaN"))
    source = read_source(str(tmp_path), "vindr")
    assert [Path(one.source_path).stem for one in source.set_aside] == ids[:1]
    assert "boxes: entry 1: 'w' is no number of pixels" in source.set_aside[0].detail


def test_words_of_people_are_no_words_for_nothing() -> None:
    assert not any(map(says_nothing, ["0", "1", "no", "normal", "p0", "Nancy"]))
    assert not any(map(names_nobody, ["p0", "0", "名前", "A-1", "Nanette"]))
    assert [value_of_label(word) for word in OTHER] == [None] * len(OTHER)
