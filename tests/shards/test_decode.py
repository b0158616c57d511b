"""Files as they are met in real life, and geometry that takes masks along."""

import csv
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chexworld_ray.shards import clean
from chexworld_ray.shards.decode import (
    Rejected,
    decode_file,
    decode_grey_jpeg,
    decode_mask,
    encode_grey_jpeg,
    encode_mask,
)
from chexworld_ray.shards.geometry import Geometry, Orientation


def test_bad_inputs_get_what_a_sensible_tool_gives(bad_input: Path) -> None:
    wrong = []
    with open(bad_input / "expected.csv", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            try:
                decoded = decode_file((bad_input / row["file"]).read_bytes())
                clean.check(decoded.pixels_HW)
                outcome = "flag" if decoded.flags else "accept"
            except Rejected as reason:
                assert str(reason)
                outcome = "reject"
            allowed = {
                "reject": {"reject"},
                "convert": {"accept", "flag"},
                "convert and flag": {"flag"},
                "reject or flag": {"reject", "flag"},
                "accept or flag": {"accept", "flag"},
            }[row["expected"]]
            if outcome not in allowed:
                wrong.append(f"{row['file']}: {outcome}, expected {row['expected']}")
    assert not wrong


@pytest.mark.parametrize(
    ("file", "original"),
    [
        ("monochrome1_12bit.dcm", "00001741_002"),
        ("rle_8bit.dcm", "00001935_000"),
        ("window_outlier_16bit.dcm", "00002235_001"),
        ("gray16_12bit_range.png", "00001323_002"),
        ("rgb_saved_gray.jpg", "00002754_000"),
        ("gray_alpha.png", "00003395_003"),
        ("cmyk.jpg", "00004937_000"),
        ("exif_rotated.jpg", "00009507_002"),
    ],
)
def test_converted_pixels_look_like_the_original(bad_input: Path, radiographs: Path, file: str, original: str) -> None:
    (found,) = [path for path in (radiographs / "images").iterdir() if original in path.name]
    wanted = np.asarray(Image.open(found).convert("L")).astype(float)
    got = cv2.resize(decode_file((bad_input / file).read_bytes()).pixels_HW, wanted.shape[::-1]).astype(float)
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.95
    assert abs(got.mean() - wanted.mean()) < 40


def test_exif_orientations_agree_with_pillow() -> None:
    picture = np.arange(80 * 100, dtype=np.uint32).reshape(80, 100).astype(np.uint8)
    from PIL import ImageOps

    for code in range(1, 9):
        image = Image.fromarray(picture)
        exif = image.getexif()
        exif[0x0112] = code
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", exif=exif)
        turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))))
        assert np.array_equal(decode_file(buffer.getvalue()).pixels_HW, turned)


@given(
    st.integers(1, 8),
    st.integers(20, 60),
    st.integers(20, 60),
    st.tuples(st.integers(0, 8), st.integers(0, 8)),
    st.integers(12, 80),
)
def test_points_boxes_and_masks_follow_the_image(
    code: int, height: int, width: int, corner: tuple[int, int], longest: int
) -> None:
    """A bright pixel block, its mask, its box and its centre land at the same place."""
    stored = np.zeros((height, width), np.uint8)
    row, col = height // 2, width // 2
    stored[row - 4 : row + 4, col - 4 : col + 4] = 255
    orientation = Orientation.from_exif(code)
    upright = orientation.apply(stored)
    crop = (*corner, upright.shape[0] - corner[0], upright.shape[1] - corner[1])
    geometry = Geometry.plan(orientation, upright.shape, crop, longest)
    image = geometry.image(upright)
    assert max(image.shape) <= longest or image.shape == crop[2:]
    rows, cols = np.nonzero(image > 127)
    if not rows.size:
        return
    slack = 1.5 * image.shape[0] / crop[2] + 1.0
    box = geometry.box({"label": "x", "x": col - 4, "y": row - 4, "w": 8, "h": 8})
    assert abs(box["y"] - rows.min()) <= slack
    assert abs(box["x"] + box["w"] - cols.max() - 1) <= slack
    point = geometry.landmark({"name": "centre", "row": row, "col": col})
    if box["w"] > 0 and rows.min() > 0 and cols.min() > 0:
        assert abs(point["row"] - (rows.min() + rows.max() + 1) / 2) <= slack
        assert abs(point["col"] - (cols.min() + cols.max() + 1) / 2) <= slack
    if not (orientation.transpose and height == width):
        mask = geometry.mask(stored > 0)
        assert mask.shape == image.shape
        assert (mask != (image > 127)).sum() <= 4 * (rows.max() - rows.min() + cols.max() - cols.min() + 4)


def test_jpeg_and_mask_round_trip() -> None:
    y, x = np.mgrid[:70, :90]
    picture = (x + y).astype(np.uint8)
    assert np.abs(decode_grey_jpeg(encode_grey_jpeg(picture, 95)).astype(int) - picture).max() <= 4
    assert np.array_equal(decode_mask(encode_mask(picture > 80)), picture > 80)


def test_black_border_is_found() -> None:
    picture = np.full((100, 120), 3, np.uint8)
    picture[20:90, 10:110] = 140
    assert clean.content_box(picture) == (20, 10, 70, 100)
