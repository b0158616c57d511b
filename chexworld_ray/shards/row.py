"""One source row → one row of the schema: read, decode, clean, crop, shrink, encode, and hide identifiers."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import cv2
import imagehash
import numpy as np
from PIL import Image

from chexworld_ray.shards import clean
from chexworld_ray.shards.bounds import memory_bound
from chexworld_ray.shards.decode import Decoded, decode_file, encode_grey_jpeg
from chexworld_ray.shards.geometry import Geometry
from chexworld_ray.shards.identify import identify
from chexworld_ray.shards.identity import Pseudonyms
from chexworld_ray.shards.masks import encode_mask, source_mask
from chexworld_ray.shards.picture import look
from chexworld_ray.shards.rejected import Rejected
from chexworld_ray.shards.schema import Columns, canonical_view
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import SourceRow

HASH_SIDE = 16  # perceptual hashes have 16 x 16 bits


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def add(self, seconds: dict[str, float]) -> None:
        """Count what another stopwatch has counted."""
        for part, spent in seconds.items():
            self.seconds[part] += spent

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Count the block's time."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began


class Prepared(NamedTuple):
    """A radiograph as shards hold it, and how it came to be."""

    decoded: Decoded
    geometry: Geometry
    cropped: bool
    """Black borders were cropped."""
    pixels_HW: np.ndarray
    encoded: bytes


def prepare(
    data: bytes, settings: WriteSettings, watch: Stopwatch, encoding: Literal["detect", "jsrt"] = "detect"
) -> Prepared:
    """Decode, check, crop, shrink and encode a file's bytes.

    Raises:
        Rejected: the file can't become a radiograph.
    """
    with memory_bound(settings.clean.max_megapixels):
        with watch.on("decode"):
            decoded = decode_file(data, settings.clean.max_megapixels, encoding, settings.clean.body_parts)
        with watch.on("clean"):
            clean.check(decoded.pixels_HW, settings.clean)
            crop = clean.content_box(decoded.pixels_HW, settings.clean)
        upright = (decoded.pixels_HW.shape[0], decoded.pixels_HW.shape[1])
        geometry = Geometry.plan(decoded.orientation, upright, crop, settings.longest_side)
        with watch.on("resize"):
            pixels_HW = geometry.image(decoded.pixels_HW)
        with watch.on("encode"):
            encoded = encode_grey_jpeg(pixels_HW, settings.jpeg_quality)
    return Prepared(decoded, geometry, crop != (0, 0, *upright), pixels_HW, encoded)


def shard_row(
    row: SourceRow,
    data: bytes,
    read: Callable[[str], bytes],
    columns: Columns,
    settings: WriteSettings,
    key: Pseudonyms,
    watch: Stopwatch,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row of the schema out of a file's bytes, and what a chunk's record keeps of it.

    Raises:
        Rejected: the file can't become a radiograph.
    """
    decoded, geometry, cropped, pixels_HW, encoded = prepare(data, settings, watch, row.encoding)
    with watch.on("hash"):
        digest = hashlib.sha256(data).hexdigest()
        phash = perceptual_hash(pixels_HW) if settings.clean.near_duplicates is not None else None
    who = identify(row, decoded.header, key, settings)
    view = canonical_view(row.view or decoded.view)
    flags = decoded.flags + ["border_cropped"] * cropped + ["patient_names_nobody"] * who.nobody
    if settings.check_pictures:
        with watch.on("look"):
            flags += look(pixels_HW, view)
    with watch.on("masks"):
        masks = _masks(row, read, columns, geometry, decoded, flags)
    record: dict[str, Any] = {
        "image_id": who.image_id,
        "image": encoded,
        "height": pixels_HW.shape[0],
        "width": pixels_HW.shape[1],
        "dataset": who.dataset,
        "patient_id": who.patient_id,
        "study_id": who.study_id,
        "view": view,
        "split": who.split,
        "source_path": who.source_path,
        "sha256": digest,
        "phash": phash,
        "boxes": [geometry.box(box) for box in row.boxes],
        "landmarks": [geometry.landmark(landmark) for landmark in row.landmarks],
        "flags": flags,
        **masks,
        **{f"label_{name}": row.labels.get(name) for name in columns.labels},
        **{f"meta_{name}": who.meta.get(name) for name, _ in columns.meta},
    }
    return record, _remembered(record, pixels_HW) | {"keyed": who.keyed}


def _remembered(record: dict[str, Any], pixels_HW: np.ndarray) -> dict[str, Any]:
    """What a chunk's record keeps of a row (records.IMAGE_SCHEMA without the file)."""
    names = ("image_id", "sha256", "phash", "dataset", "patient_id", "split", "source_path")
    mean, deviation = (float(part[0, 0]) / 255.0 for part in cv2.meanStdDev(pixels_HW))
    count = pixels_HW.size
    return {name: record[name] for name in names} | {
        "pixels": count,
        "pixel_sum": count * mean,
        "pixel_squares": count * (mean * mean + deviation * deviation),
    }


def _masks(
    row: SourceRow,
    read: Callable[[str], bytes],
    columns: Columns,
    geometry: Geometry,
    decoded: Decoded,
    flags: list[str],
) -> dict[str, bytes | None]:
    """PNG of every organ's mask; one that can't be read is left out and flagged, for the image is good."""
    turned = decoded.pixels_HW.shape[::-1] if decoded.orientation.transpose else decoded.pixels_HW.shape
    masks: dict[str, bytes | None] = {}
    for organ in columns.masks:
        masks[f"mask_{organ}"] = None
        if organ in row.masks:
            try:
                of_file = (turned[0], turned[1])
                stored_HW = source_mask(row.masks[organ], read, row.boxes, of_file, decoded.orientation)
                masks[f"mask_{organ}"] = encode_mask(geometry.mask(stored_HW))
            except Rejected:
                flags.append(f"bad_mask_{organ}")
    return masks


def perceptual_hash(pixels_HW: np.ndarray) -> bytes:
    """32 bytes that hardly change when a picture is encoded or resized again."""
    found = imagehash.phash(Image.fromarray(pixels_HW), hash_size=HASH_SIDE)
    return np.packbits(found.hash.ravel()).tobytes()
