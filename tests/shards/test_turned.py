"""Pictures with a tag that turns them: masks and boxes of all kinds end where the picture's block ends."""

import csv
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chexworld_ray.shards.decode import decode_file, decode_grey_jpeg
from chexworld_ray.shards.geometry import Orientation
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.masks import decode_mask, source_mask
from chexworld_ray.shards.parquet import read_table
from chexworld_ray.shards.schema import every_column
from chexworld_ray.shards.settings import CleanSettings, WriteSettings
from chexworld_ray.shards.source import MaskSource, Source
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.storage import place

TAG = 0x0112
BOX = {"label": "block", "x": 20, "y": 24, "w": 24, "h": 32}
RNG = np.random.default_rng(0)


def block(height: int, width: int) -> np.ndarray:
    """Whether a pixel of the stored picture lies in the box."""
    inside_HW = np.zeros((height, width), bool)
    inside_HW[24:56, 20:44] = True
    return inside_HW


def saved(file: Path, pixels_HW: np.ndarray, code: int | None) -> None:
    image, exif = Image.fromarray(pixels_HW), Image.Exif()
    if code is not None:
        exif[TAG] = code
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if file.suffix == ".tif" else "PNG", exif=exif)
    file.write_bytes(buffer.getvalue())


def write_case(folder: Path, form: str, code: int, mask: str, shape: tuple[int, int]) -> dict[str, str]:
    """An image whose tag is `code` and a mask of it; the row of the table."""
    name = f"{form}-{code}-{mask.replace(' ', '-')}-{shape[1]}"
    inside_HW = block(*shape)
    noise_HW = RNG.integers(0, 90, shape).astype(np.uint8)
    saved(folder / f"{name}.{form}", np.where(inside_HW, 250, noise_HW).astype(np.uint8), code)
    suffix = ".tif" if "tif" in mask else ".png"
    if "other" in mask:
        own = 8 if code != 8 else 3
        drawn_HW = Orientation.from_exif(own).undo(Orientation.from_exif(code).apply(inside_HW))
    else:
        own, drawn_HW = (code if "tagged" in mask else None), inside_HW
    saved(folder / f"{name}-mask{suffix}", 255 * np.ascontiguousarray(drawn_HW).astype(np.uint8), own)
    return {"path": f"{name}.{form}", "mask": f"{name}-mask{suffix}", "boxes": json.dumps([BOX])}


MASKS = ["plain png", "plain tif", "tagged png", "tagged tif", "other png", "other tif"]


@pytest.fixture(scope="module")
def rows(
    tmp_path_factory: pytest.TempPathFactory, write_set: Callable[[Source, Path, WriteSettings], Manifest]
) -> dict[str, dict[str, Any]]:
    folder, out = tmp_path_factory.mktemp("turned"), tmp_path_factory.mktemp("shards")
    cases = [
        write_case(folder, form, code, mask, shape)
        for form in ("png", "tif")
        for code in range(1, 9)
        for mask in MASKS
        for shape in ((96, 128), (96, 96))
    ]
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, cases[0])
        table.writeheader()
        table.writerows(cases)
    manifest = write_set(
        read_source(str(folder), labels="labels.csv"), out, WriteSettings(clean=CleanSettings(crop_borders=False))
    )
    files = [read_table(place(str(out)) / file.path, every_column, ()) for file in manifest.files]
    return {row["source_path"]: row for table in files for row in table.to_pylist()}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("form", ["png", "tif"])
def test_mask_and_box_lie_on_the_block(rows: dict[str, dict[str, Any]], mask: str, form: str) -> None:
    for code, width in itertools.product(range(1, 9), (96, 128)):
        row = rows[f"{form}-{code}-{mask.replace(' ', '-')}-{width}.{form}"]
        bright_HW, inside_HW = decode_grey_jpeg(row["image"]) > 170, decode_mask(row["mask_lung"])
        assert overlap(bright_HW, inside_HW) > 0.98, (code, width)
        (box,) = row["boxes"]
        drawn_HW = np.zeros_like(bright_HW)
        left, top, columns, lines = (round(box[key]) for key in ("x", "y", "w", "h"))
        drawn_HW[top : top + lines, left : left + columns] = True
        assert overlap(bright_HW, drawn_HW) > 0.98, (code, width)
        assert ("exif_rotated" in row["flags"]) == (code > 1)


def overlap(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    return float((one_HW & other_HW).sum() / (one_HW | other_HW).sum())


@pytest.mark.parametrize("depth", [np.uint8, np.uint16, np.float32])
def test_a_mask_whose_0_is_white_is_its_white(depth: type) -> None:
    inside_HW = block(96, 128)
    stored = np.where(inside_HW, 0, 1 if depth is np.float32 else np.iinfo(depth).max).astype(depth)
    buffer = io.BytesIO()
    drawn = 255 - stored if depth is np.uint8 else stored  # Pillow inverts 8 bits when it writes
    Image.fromarray(drawn).save(buffer, "TIFF", tiffinfo={262: 0})
    read = source_mask(MaskSource("files", ("m.tif",)), lambda _: buffer.getvalue(), [], (96, 128))
    assert np.array_equal(read, inside_HW)


@pytest.mark.parametrize("exif", [b"Exif\0\0XXXXXXXX", b"Exif\0\0MM\0*"])
def test_damaged_exif_costs_neither_the_image_nor_its_mask(exif: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(255 * block(96, 128).astype(np.uint8)).save(buffer, "PNG", exif=exif)
    assert decode_file(buffer.getvalue(), 1.0).flags == ["exif_unreadable"]
    read = source_mask(MaskSource("files", ("m",)), lambda _: buffer.getvalue(), [], (96, 128))
    assert read[block(96, 128)].all()
