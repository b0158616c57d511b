"""Copies, exact and near: one stays, and it is the right one."""

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.decode import decode_grey_jpeg, encode_grey_jpeg
from chexworld_ray.shards.duplicates import find_duplicates
from chexworld_ray.shards.ingest import settle
from chexworld_ray.shards.records import IMAGE_SCHEMA
from chexworld_ray.shards.row import perceptual_hash


def table(rows: list[tuple[str, str, str]], hashes: list[bytes | None] | None = None) -> pa.Table:
    """(image_id, content, split) of each image; every image is its own patient."""
    records = [
        {
            "image_id": name,
            "sha256": content,
            "phash": hashes[at] if hashes else None,
            "dataset": "x",
            "patient_id": name,
            "split": split,
            "source_path": name,
            "file": f"{split}.parquet",
        }
        for at, (name, content, split) in enumerate(rows)
    ]
    return pa.Table.from_pylist(records, schema=IMAGE_SCHEMA)


def test_of_two_copies_the_one_outside_train_stays() -> None:
    (drop,) = find_duplicates(table([("a", "same", "train"), ("b", "same", "test"), ("c", "other", "train")]), 0, None)
    assert (drop.image_id, drop.file, drop.reason, drop.detail) == ("a", "train.parquet", "duplicate", "b")


def test_what_is_there_already_stays() -> None:
    images = table([("z", "same", "train"), ("a", "same", "test")])
    (drop,) = find_duplicates(images, 1, None)
    assert (drop.image_id, drop.detail) == ("a", "z")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["train", "val", "test"])), max_size=12))
def test_one_of_each_content_stays(rows: list[tuple[str, str]]) -> None:
    images = table([(f"{at}", content, split) for at, (content, split) in enumerate(rows)])
    kept, drops = settle(images, 0, None)
    assert kept.num_rows + len(drops) == len(rows)
    assert sorted(kept["sha256"].to_pylist()) == sorted({content for content, _ in rows})


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 12))
def test_near_duplicates_are_those_that_a_search_of_all_pairs_finds(seed: int, near: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2, (4, 256), np.uint8)
    bits = base[rng.integers(0, 4, 24)]
    for row in bits:
        row[rng.integers(0, 256, rng.integers(0, 16))] ^= 1
    hashes = [np.packbits(row).tobytes() for row in bits]
    images = table([(f"{at:02d}", f"{at}", "train") for at in range(24)], hashes)
    kept, expected = [], {}
    for at in range(24):
        close = [other for other in kept if (bits[at] != bits[other]).sum() <= near]
        if close:
            expected[f"{at:02d}"] = {f"{other:02d}" for other in close}
        else:
            kept.append(at)
    found = {drop.image_id: drop.detail.split(" ")[0] for drop in find_duplicates(images, 0, near)}
    assert found.keys() == expected.keys()
    assert all(found[name] in expected[name] for name in found)


def test_the_hash_tells_copies_from_other_images() -> None:
    pictures = [make_phantom(3, 2 * number, 256).image_HW for number in range(12)]
    hashes = [np.unpackbits(np.frombuffer(perceptual_hash(picture), np.uint8)) for picture in pictures]
    for number, picture in enumerate(pictures):
        for again in (decode_grey_jpeg(encode_grey_jpeg(picture, 60)), cv2.resize(picture, (200, 200))):
            other = np.unpackbits(np.frombuffer(perceptual_hash(again), np.uint8))
            assert (other != hashes[number]).sum() <= 8
    apart = [int((a != b).sum()) for at, a in enumerate(hashes) for b in hashes[:at]]
    assert min(apart) > 20


def test_a_patient_in_two_splits_is_refused_after_the_headers_are_read() -> None:
    images = table([("a", "1", "train"), ("b", "2", "test")]).to_pylist()
    images = pa.Table.from_pylist([row | {"patient_id": "p"} for row in images], schema=IMAGE_SCHEMA)
    with pytest.raises(UserError, match="1 patients stand in more than one split, first that of images 'a' and 'b'"):
        settle(images, 0, None)
