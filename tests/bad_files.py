"""Broken and tricky files, as folders of hospitals hold them, made of phantoms: 27 kinds, always the same bytes."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from dicoms import dicom, jpeg_dicom
from PIL import Image
from pydicom.uid import JPEG2000, JPEG2000Lossless, RLELossless

from chexworld_ray.phantoms.dataset import make_phantom

EXPECTED = "expected.csv"
CR = "1.2.840.10008.5.1.4.1.1.1"
STRUCTURED_REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
PIXELS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData")


@dataclass(frozen=True)
class BadFile:
    """A file, and what a sensible tool does with it: reject, convert or accept, and flag, in the words of the table."""

    name: str
    expected: str
    data: bytes
    original_HW: np.ndarray | None = None
    """uint8 radiograph that it was made of, upright and with dark lungs; None where nothing comes of it."""
    reason: str | None = None
    """Why it is rejected."""


@cache
def chest(number: int) -> np.ndarray:
    """uint8 radiograph of 192 x 160 pixels that uses all levels; each number is another patient.

    It is not square, so that sides which are exchanged are seen.
    """
    image_HW = make_phantom(27, 2 * number, 192).image_HW[:, 16:176].astype(np.float32)
    low, high = float(image_HW.min()), float(image_HW.max())
    return np.rint((image_HW - low) * (255.0 / (high - low))).astype(np.uint8)


@cache
def bad_files() -> tuple[BadFile, ...]:
    return (*_no_pictures(), *_pictures(), *_copies(), *_radiographs(), *_other_dicoms())


def write_bad_files(folder: Path) -> None:
    """All of them, beside a table of what is expected and a text."""
    with (folder / EXPECTED).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "expected"])
        table.writerows([bad.name, bad.expected] for bad in bad_files())
    (folder / "README.md").write_text("Made by tests/bad_files.py\n")
    for bad in bad_files():
        (folder / bad.name).write_bytes(bad.data)


def expectations(folder: Path) -> dict[str, str]:
    """Name of each file of a folder → what a sensible tool does with it."""
    with (folder / EXPECTED).open(encoding="utf-8") as file:
        return {row["file"]: row["expected"] for row in csv.DictReader(file)}


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    return _saved(Image.fromarray(pixels), "JPEG", quality=92, **options)


def _png(pixels: np.ndarray) -> bytes:
    return _saved(Image.fromarray(pixels), "PNG")


def _rejected(name: str, data: bytes, reason: str) -> BadFile:
    return BadFile(name, "reject", data, reason=reason)


def _converted(name: str, data: bytes, original_HW: np.ndarray) -> BadFile:
    return BadFile(name, "convert", data, original_HW)


def _no_pictures() -> Iterator[BadFile]:
    jpeg, strip = _jpeg(chest(0)), cv2.resize(chest(1), (1200, 40))
    yield _rejected("truncated.jpg", jpeg[: int(0.45 * len(jpeg))], "damaged image")
    yield _rejected("zero_byte.png", b"", "empty file")
    yield _rejected("text_named.png", b"A report that somebody saved under a wrong name.\n", "not an image")
    yield _rejected("all_black.png", _png(np.zeros((192, 160), np.uint8)), "constant image")
    yield _rejected("elongated.png", _png(strip), "elongated")
    yield _rejected("tiny_24px.png", _png(cv2.resize(chest(2), (24, 24), interpolation=cv2.INTER_AREA)), "too small")
    frames = [Image.fromarray(picture) for picture in (chest(3), 255 - chest(3))]
    gif = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=500, loop=0)
    yield BadFile("animated.gif", "reject or flag", gif, reason="several frames")


def _pictures() -> Iterator[BadFile]:
    deep = chest(4)
    yield _converted("gray16_12bit_range.png", _png(deep.astype(np.uint16) * 16), deep)
    equal = chest(5)
    yield _converted("rgb_saved_gray.jpg", _jpeg(np.dstack([equal] * 3)), equal)
    drawn = np.dstack([chest(6)] * 3)
    cv2.putText(drawn, "L", (132, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 220, 0), 2)
    cv2.arrowedLine(drawn, (20, 150), (60, 110), (255, 0, 0), 2)
    yield BadFile("colour_annotation.png", "convert and flag", _png(drawn))
    opaque = chest(7)
    yield _converted("gray_alpha.png", _png(np.dstack([opaque, np.full_like(opaque, 255)])), opaque)
    canvas = np.zeros((280, 400), np.uint8)
    canvas[50:242, 120:280] = chest(8)
    yield _converted("large_black_borders.jpg", _jpeg(canvas), canvas)
    print_ = chest(9)
    inks = Image.fromarray(print_).convert("RGB").convert("CMYK")
    yield _converted("cmyk.jpg", _saved(inks, "JPEG", quality=92), print_)
    upright, exif = chest(10), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    yield _converted("exif_rotated.jpg", _jpeg(np.rot90(upright), exif=exif), upright)


def _copies() -> Iterator[BadFile]:
    """Nothing is wrong with these: what a name or a copy may spoil."""
    good, turned = chest(11), np.ascontiguousarray(chest(12)[::-1, ::-1])
    yield BadFile("Ünïcode name (1).JPG", "accept or flag", _jpeg(good), good)
    yield BadFile("exact_copy.jpg", "accept or flag", _jpeg(good), good)
    yield BadFile("upside_down.jpg", "accept or flag", _jpeg(turned), turned)


def _radiographs() -> Iterator[BadFile]:
    """DICOM files, each image with a number of its own."""
    header: dict[str, Any] = {"Modality": "CR", "SOPClassUID": CR}
    first, window = chest(13), {"WindowCenter": 2047.5, "WindowWidth": 4096}
    negative = {"PhotometricInterpretation": "MONOCHROME1"}
    stored = 4095 - first.astype(np.uint16) * 16
    whole = dicom(stored, 12, SOPInstanceUID="1.2.3.13", **header, **negative, **window)
    yield _converted("monochrome1_12bit.dcm", whole, first)
    yield _rejected("truncated.dcm", whole[: len(whole) // 3], "pixel data can't be decoded")
    runs = chest(14)
    yield _converted("rle_8bit.dcm", dicom(runs, 8, RLELossless, SOPInstanceUID="1.2.3.14", **header), runs)
    inside = chest(15)
    stored = inside.astype(np.uint16) * 40 + 450
    stored[:3, :3] = stored[-3:, -3:] = 65535
    window = {"WindowCenter": 5600, "WindowWidth": 10300}
    data = dicom(stored, 16, SOPInstanceUID="1.2.3.15", **header, **window)
    yield _converted("window_outlier_16bit.dcm", data, inside)
    lossy = chest(16)
    stored, window = 30000 - lossy.astype(np.uint16) * 117, {"WindowCenter": 15000, "WindowWidth": 30000}
    data = dicom(stored, 15, JPEG2000, SOPInstanceUID="1.2.3.16", **header, **negative, **window)
    yield _converted("jpeg2000_monochrome1_chest.dcm", data, lossy)
    baseline = chest(17)
    data = jpeg_dicom(_jpeg(baseline), baseline, SOPInstanceUID="1.2.3.17", **header)
    yield _converted("jpeg_baseline_chest.dcm", data, baseline)


def _other_dicoms() -> Iterator[BadFile]:
    """What an archive holds beside radiographs of the chest."""
    hand = {"Modality": "CR", "BodyPartExamined": "EXTREMITY", "PhotometricInterpretation": "MONOCHROME1"}
    data = dicom(1023 - chest(18).astype(np.uint16) * 4, 10, JPEG2000, SOPInstanceUID="1.2.3.18", **hand)
    yield BadFile("jpeg2000_extremity.dcm", "reject or flag", data, reason="body part")
    # no body part, so that only the modality tells; JPEG Lossless, as such scans have it, has no encoder here
    scan = {"Modality": "NM", "BodyPartExamined": None, "PixelRepresentation": 1}
    data = dicom(chest(19).astype(np.int16), 16, JPEG2000Lossless, SOPInstanceUID="1.2.3.19", **scan)
    yield _rejected("jpeg2000_nuclear.dcm", data, "modality")
    scan = {"Modality": "CT", "BodyPartExamined": None, "PixelRepresentation": 1, "RescaleIntercept": -1024}
    data = dicom(chest(20).astype(np.int16) * 8, 16, SOPInstanceUID="1.2.3.20", **scan)
    yield _rejected("ct_slice.dcm", data, "modality")
    header = {"Modality": "SR", "SOPClassUID": STRUCTURED_REPORT, "PhotometricInterpretation": None}
    report = pydicom.dcmread(io.BytesIO(dicom(chest(0), SOPInstanceUID="1.2.3.21", **header)))
    for keyword in PIXELS:
        del report[keyword]
    buffer = io.BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    yield _rejected("no_pixel_data.dcm", buffer.getvalue(), "no pixel data")
