"""The check of the picture itself: what it tells, what it leaves alone, and how often it is wrong."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import looked_into

from chexworld_ray.benchmarks.picture_material import Sample, disturbed
from chexworld_ray.benchmarks.pictures import SPOILT
from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.phantoms.lateral import make_lateral
from chexworld_ray.phantoms.others import make_other
from chexworld_ray.reports.data_card import data_card, describe_manifest
from chexworld_ray.reports.html import write_report
from chexworld_ray.runtime.ingest import _before
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.check import problems
from chexworld_ray.shards.identity import Pseudonyms
from chexworld_ray.shards.ingest import fingerprint, make_chunks
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.picture import FLAGS, VERSION, WEIGHTS, flags_of, look, scores, shipped
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.shards.writer import drop_rows, write_chunk
from chexworld_ray.storage import place, read_json, write_json

WriteSet = Callable[[Source, Path, WriteSettings], Manifest]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good phantoms, a negative, one upside down, and a page of text; of two from the side the table knows one."""
    folder = tmp_path_factory.mktemp("spoilt")
    pictures = {f"good-{at}.png": make_phantom(7, 2 * at, 96).image_HW for at in range(4)}
    pictures["negative.png"] = 255 - make_phantom(7, 20, 96).image_HW
    pictures["upside-down.png"] = np.rot90(make_phantom(7, 22, 96).image_HW, 2)
    pictures["page.png"] = make_other("page", 7, 0, 96)
    pictures["side.png"], pictures["told.png"] = make_lateral(7, 1, 96), make_lateral(7, 2, 96)
    for name, picture_HW in pictures.items():
        cv2.imwrite(str(folder / name), picture_HW)
    rows = [[name, "lateral" if name == "told.png" else ""] for name in pictures]
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "view"], *rows])
    return folder


def rows_of(manifest: Manifest) -> dict[str, dict]:
    files = [manifest.root / file.path for file in manifest.files]
    found = [row for file in files for row in pq.read_table(file.url.removeprefix("file://")).to_pylist()]
    return {row["source_path"]: row for row in found}


def test_the_check_flags_what_is_wrong_and_nothing_else(folder: Path, tmp_path: Path, write_set: WriteSet) -> None:
    rows = rows_of(write_set(read_source(str(folder), labels="labels.csv"), tmp_path, WriteSettings()))
    told = {name: [flag for flag in row["flags"] if flag in FLAGS] for name, row in rows.items()}
    assert told == {
        **{f"good-{at}.png": [] for at in range(4)},
        "negative.png": ["looks_negative"],
        "upside-down.png": ["looks_turned_180"],
        "page.png": ["looks_no_chest"],
        "side.png": ["looks_lateral"],
        "told.png": [],  # the table says so already
    }


def test_the_check_changes_no_pixel_and_sets_nothing_aside(folder: Path, tmp_path: Path, write_set: WriteSet) -> None:
    source = read_source(str(folder), labels="labels.csv")
    with_check = rows_of(write_set(source, tmp_path / "with", WriteSettings()))
    without = rows_of(write_set(source, tmp_path / "without", WriteSettings(check_pictures=False)))
    assert with_check.keys() == without.keys()
    for name, row in without.items():
        assert not set(row["flags"]) & set(FLAGS)
        kept = [flag for flag in with_check[name]["flags"] if flag not in FLAGS]
        assert with_check[name] | {"flags": kept} == row


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_a_phantom_is_told_from_its_negative_and_from_its_turns(patient: int) -> None:
    good_HW = make_phantom(11, 2 * patient, 96).image_HW
    before = good_HW.copy()
    for flag in ("looks_negative", "looks_turned_90", "looks_turned_180", "looks_turned_270"):
        spoilt_HW = disturbed(Sample(good_HW, **SPOILT[flag]))
        assert flag in look(spoilt_HW, "frontal PA")
        assert flag not in look(good_HW, "frontal PA")
    assert np.array_equal(good_HW, before)


def test_a_turned_picture_is_upright_after_a_turn_back_by_the_flags_angle() -> None:
    good_HW = make_phantom(11, 0, 96).image_HW
    clockwise_HW = cv2.rotate(good_HW, cv2.ROTATE_90_CLOCKWISE)
    assert look(clockwise_HW, "unknown") == ["looks_turned_90"]
    assert np.array_equal(cv2.rotate(clockwise_HW, cv2.ROTATE_90_COUNTERCLOCKWISE), good_HW)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5))
def test_a_picture_and_its_mirror_image_score_opposite_as_mirrored(seed: int, tall: int, wide: int) -> None:
    picture_HW = np.random.default_rng(seed).integers(0, 256, (32 * tall, 32 * wide), np.uint8)
    at = FLAGS.index("looks_mirrored")
    reflected_HW = np.ascontiguousarray(picture_HW[:, ::-1])
    score, opposite = (float(scores(one_HW, shipped())[at]) for one_HW in (picture_HW, reflected_HW))
    assert score == -opposite
    assert abs(score) > 1e-6


@pytest.mark.parametrize(
    ("above", "view", "told"),
    [
        (FLAGS, "unknown", ["looks_no_chest"]),
        (("looks_lateral", "looks_mirrored"), "unknown", ["looks_lateral"]),
        (("looks_lateral", "looks_negative", "looks_mirrored"), "lateral", ["looks_negative"]),
        (("looks_mirrored",), "lateral", []),
        (("looks_mirrored",), "frontal AP", ["looks_mirrored"]),
        (("looks_negative", "looks_turned_90"), "frontal PA", ["looks_turned_90", "looks_negative"]),
    ],
)
def test_only_what_can_be_said_is_said(above: tuple[str, ...], view: str, told: list[str]) -> None:
    assert flags_of(np.array([flag in above for flag in FLAGS]), view) == told


def test_any_picture_gets_flags_and_no_error() -> None:
    for picture_HW in (np.zeros((64, 64)), np.full((300, 64), 255), np.eye(65) * 255, np.full((1, 1), 9)):
        assert set(look(picture_HW.astype(np.uint8), "unknown")) <= set(FLAGS)


def test_the_end_of_an_ingest_names_examples_of_each_flag(folder: Path, tmp_path: Path, write_set: WriteSet) -> None:
    for at in range(4):
        cv2.imwrite(str(tmp_path / f"{at}.png"), make_other("page", 7, at, 96))
    cv2.imwrite(str(tmp_path / "good.png"), make_phantom(7, 0, 96).image_HW)
    pages = write_set(read_source(str(tmp_path)), tmp_path / "pages", WriteSettings())
    pages = manifests.load(pages.root.url)
    line = next(line for line in describe_manifest(pages).splitlines() if line.startswith("  looks_no_chest: "))
    assert line.endswith(", …")
    assert len(line.split(", ")) == 4
    assert "looks_no_chest 4\n" in describe_manifest(pages)
    assert data_card(pages)["flag_examples"]["looks_no_chest"] == pages.examples()["looks_no_chest"]
    assert "not looked at" not in describe_manifest(pages)
    page = Path(write_report(looked_into(tmp_path / "run", pages), None)).read_text()
    assert f"looks_no_chest 4 ({', '.join(pages.examples()['looks_no_chest'])}, …)" in page
    assert "not looked at" not in page
    assert not [line for line in problems(pages) if not line.startswith(manifests.REJECTED)]


def test_a_set_that_was_not_looked_at_says_so(folder: Path, tmp_path: Path, write_set: WriteSet) -> None:
    off = write_set(read_source(str(folder), labels="labels.csv"), tmp_path, WriteSettings(check_pictures=False))
    assert "pictures that were not looked at: 9" in describe_manifest(off)
    assert "not looked at: 9." in Path(write_report(looked_into(tmp_path / "run", off), None)).read_text()


def test_a_manifest_of_before_the_check_reads_as_before(folder: Path, tmp_path: Path, write_set: WriteSet) -> None:
    made = write_set(read_source(str(folder), labels="labels.csv"), tmp_path, WriteSettings(check_pictures=False))
    record = read_json(tmp := place(made.url))
    for file in record["files"]:
        del file["pictures"], file["examples"]
    write_json(tmp.parent / manifests.NAME, record)
    old = manifests.load(made.root.url)
    assert old.data_version == made.data_version
    assert not [line for line in problems(old) if not line.startswith(manifests.REJECTED)]
    assert old.counts()["pictures_checked"] == 0


def test_a_set_of_before_the_check_is_added_to_and_goes_on(folder: Path, tmp_path: Path, write_set: WriteSet) -> None:
    source = read_source(str(folder), labels="labels.csv")
    write_set(source, tmp_path, WriteSettings(check_pictures=False))
    on, off = (WriteSettings(check_pictures=check) for check in (True, False))
    assert "check_pictures" not in on.of_data()
    assert fingerprint(make_chunks(source, on)) == fingerprint(make_chunks(source, off))
    assert _before(place(str(tmp_path)), source, on, True, "another").rows == 9
    with pytest.raises(UserError, match="other settings: longest_side"):
        _before(place(str(tmp_path)), source, replace(on, longest_side=256), True, "another")


def test_a_file_that_loses_rows_keeps_its_version_and_names_examples_that_are_left(
    folder: Path, tmp_path: Path
) -> None:
    source, out = read_source(str(folder), labels="labels.csv"), place(str(tmp_path))
    rows = [row for row in source if row.path in ("negative.png", "upside-down.png", "good-0.png")]
    rows = [replace(row, split="train") for row in rows]
    key = Pseudonyms(b"a key for tests")
    (file,) = write_chunk("01-00000", rows, place(source.root), source.columns, WriteSettings(), key, out).files
    (negative,) = file.examples["looks_negative"]
    left = drop_rows(out, file, {negative}, 16)
    assert left is not None
    assert (left.pictures, set(left.examples)) == (VERSION, {"looks_turned_180"})


def test_weights_are_small_and_hold_no_program() -> None:
    file = Path(manifests.__file__).parent / WEIGHTS
    assert file.stat().st_size < 100_000
    with np.load(file, allow_pickle=False) as stored:
        assert all(stored[name].dtype.kind == "f" for name in stored.files)
    assert f"shards/{WEIGHTS}" in (Path(__file__).parents[2] / "pyproject.toml").read_text()
