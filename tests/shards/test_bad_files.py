"""What a hospital's folder holds beside good files: of our own making always, collected ones where they are at hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from bad_files import bad_files, expectations
from PIL import Image

from chexworld_ray.shards import clean
from chexworld_ray.shards.decode import Decoded, Rejected, decode_file
from chexworld_ray.shards.settings import CleanSettings

ALLOWED = {
    "reject": {"reject"},
    "convert": {"accept", "flag"},
    "convert and flag": {"flag"},
    "reject or flag": {"reject", "flag"},
    "accept or flag": {"accept", "flag"},
}


def decode(data: bytes) -> Decoded:
    decoded = decode_file(data, CleanSettings().max_megapixels)
    clean.check(decoded.pixels_HW, CleanSettings())
    return decoded


def alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


def reason(data: bytes) -> str | None:
    try:
        decode(data)
    except Rejected as why:
        return why.reason
    return None


def not_as_expected(folder: Path) -> list[str]:
    wrong = []
    for name, expected in expectations(folder).items():
        try:
            outcome = "flag" if decode((folder / name).read_bytes()).flags else "accept"
        except Rejected as why:
            assert why.reason
            outcome = "reject"
        if outcome not in ALLOWED[expected]:
            wrong.append(f"{name}: {outcome}, expected {expected}")
    return wrong


def test_each_file_gets_what_a_sensible_tool_gives(made_bad_files: Path) -> None:
    assert len(expectations(made_bad_files)) == 27
    assert not_as_expected(made_bad_files) == []


def test_a_file_is_refused_for_what_is_wrong_with_it() -> None:
    reasons = {bad.name: bad.reason for bad in bad_files() if bad.reason is not None}
    assert len(reasons) == 12
    assert {bad.name: reason(bad.data) for bad in bad_files() if bad.name in reasons} == reasons


def test_converted_pixels_are_those_of_the_original() -> None:
    converted = [bad for bad in bad_files() if bad.original_HW is not None]
    assert len(converted) == 14
    for bad in converted:
        got_HW, wanted_HW = decode(bad.data).pixels_HW, np.asarray(bad.original_HW)
        assert got_HW.shape == wanted_HW.shape, bad.name
        # JPEG moves a pixel by 2 of 255 levels on average; where a file names no window a thousandth of the pixels
        # may saturate at either end, which moves the others by up to 10
        assert np.abs(got_HW.astype(float) - wanted_HW).mean() < 12, bad.name
        assert alike(got_HW, wanted_HW) > 0.99, bad.name


def test_the_files_are_the_same_at_each_making() -> None:
    before = [bad.data for bad in bad_files()]
    bad_files.cache_clear()
    assert [bad.data for bad in bad_files()] == before


def test_each_collected_file_gets_what_a_sensible_tool_gives(collected_bad_files: Path) -> None:
    assert not_as_expected(collected_bad_files) == []


def test_the_made_files_are_of_the_kinds_of_the_collected_ones(collected_bad_files: Path, made_bad_files: Path) -> None:
    made, collected = expectations(made_bad_files), expectations(collected_bad_files)
    assert made.pop("jpeg2000_nuclear.dcm") == collected.pop("jpeg_lossless_nuclear.dcm")  # no encoder for this one
    assert made == collected


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
def test_converted_pixels_look_like_a_real_radiograph(
    collected_bad_files: Path, radiographs: Path, file: str, original: str
) -> None:
    (found,) = [path for path in (radiographs / "images").iterdir() if original in path.name]
    wanted = np.asarray(Image.open(found).convert("L")).astype(float)
    got = cv2.resize(decode((collected_bad_files / file).read_bytes()).pixels_HW, wanted.shape[::-1]).astype(float)
    assert alike(got, wanted) > 0.95
    assert abs(got.mean() - wanted.mean()) < 40
