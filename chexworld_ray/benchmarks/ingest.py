"""Ingest on one core: images/s of JPEG, PNG and DICOM files, and where the time goes."""

import time
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from chexworld_ray.benchmarks.dicom_files import dicom_bytes
from chexworld_ray.benchmarks.views import JPEG_QUALITY, one_core
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.decode import encode_grey_jpeg
from chexworld_ray.shards.identity import Pseudonyms
from chexworld_ray.shards.records import ChunkRecord
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.shards.writer import write_chunk
from chexworld_ray.storage import Place, place, write_bytes

FORMATS = ("jpeg", "png", "dicom")
PIXEL_WORK = ("decode", "clean", "resize", "encode")
PHANTOM_SIDE = 512
DRAWN = 64  # phantoms that are drawn; the others are these, moved
ALONE = 128  # images that one core is timed with
KEY = Pseudonyms(b"benchmark, not a secret")


def write_case(folder: Place, form: str, images: int, size: int) -> Source:
    """Write `images` phantoms of size x size pixels: JPEG q95, PNG, or uncompressed 12-bit DICOM with a window."""
    drawn = _drawn(min(images, DRAWN), min(PHANTOM_SIDE, size))
    for number in range(images):
        moved_HW = np.roll(drawn[number % DRAWN], number // DRAWN, axis=0)  # another image, and cheap
        pixels_HW = cv2.resize(moved_HW, (size, size), interpolation=cv2.INTER_CUBIC)
        write_bytes(folder / f"{number:06d}.{form}", _encode(pixels_HW, form, number))
    return read_source(folder.url)


@lru_cache(maxsize=1)
def _drawn(count: int, side: int) -> list[np.ndarray]:
    return [make_phantom(0, number, side).image_HW for number in range(count)]


def _encode(pixels_HW: np.ndarray, form: str, number: int) -> bytes:
    if form == "jpeg":
        return encode_grey_jpeg(pixels_HW, JPEG_QUALITY)
    if form == "png":
        return cv2.imencode(".png", pixels_HW)[1].tobytes()
    return dicom_bytes(pixels_HW.astype(np.uint16) * 16, number)


def time_one_core(source: Source, out: Place) -> dict[str, Any]:
    """Images/s of `write_chunk` on one core, and milliseconds an image by part; the first images only warm up."""
    rows, root = list(source)[:ALONE], place(source.root)

    def write(count: int) -> ChunkRecord:
        return write_chunk("01-00000", rows[:count], root, source.columns, WriteSettings(), KEY, out)

    with one_core():
        write(4)
        began = time.perf_counter()
        record = write(len(rows))
        seconds = time.perf_counter() - began
    assert not record.rejected, record.rejected[0]
    parts = {name: round(1e3 * spent / len(rows), 3) for name, spent in record.seconds.items()}
    pixels = sum(record.seconds.get(name, 0.0) for name in PIXEL_WORK)
    return {
        "images_per_second_of_a_core": round(len(rows) / seconds, 1),
        "milliseconds_an_image": parts | {"all": round(1e3 * seconds / len(rows), 3)},
        "pixel_work_ms": round(1e3 * pixels / len(rows), 3),
        "other_fraction_of_a_core": round(1.0 - pixels / seconds, 3),
    }
