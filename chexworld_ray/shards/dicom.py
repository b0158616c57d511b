"""DICOM → grey pixels: modality and body part checked, window applied, MONOCHROME1 inverted."""

import logging
import struct
import warnings
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydicom import config
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from chexworld_ray.shards.decode import (
    MIN_LEVELS,
    Decoded,
    grey_and_colour,
    stretch_to_uint8,
)
from chexworld_ray.shards.dicom_pixels import read_header, stored_pixels
from chexworld_ray.shards.header import BODY_PARTS, MODALITIES, header_ids, term
from chexworld_ray.shards.identity import HeaderIds
from chexworld_ray.shards.rejected import Rejected, check_size

if TYPE_CHECKING:
    from pydicom import Dataset

RADIOGRAPHS = {"CR", "DX", "DR", "RG"}
CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "RIB", "PORT CHEST")
MIN_WINDOW_CONTRAST = 8.0  # grey levels; a window that leaves less is a wrong window
MAX_WINDOW_CLIPPED = 0.75  # part of the image that a window may turn all black or all white
# what pydicom raises where a window or a lookup table is damaged
_UNUSABLE_TABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, struct.error)

# what pydicom has to say about a header quotes the header
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
config.settings.reading_validation_mode = config.IGNORE


def decode_dicom(data: bytes, max_megapixels: float) -> Decoded:
    """Decode one DICOM file that holds a projection radiograph of the chest.

    Raises:
        rejected.Rejected: other modality or body part, no or damaged pixels, no decoder for the transfer syntax. Its
            `header` has the identifiers, its details never quote them.
    """
    ids = HeaderIds()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = read_header(data, max_megapixels)
            ids = header_ids(header)
            return _decode(header, ids, max_megapixels)
    except MemoryError:
        raise
    except Rejected as rejected:
        rejected.header = ids
        if ids.in_text(rejected.detail):
            rejected.detail = ""
        raise
    except Exception as error:  # a damaged header makes any part of pydicom raise anything; its message may quote it
        rejected = Rejected("damaged DICOM", type(error).__name__)
        rejected.header = ids
        raise rejected from None


def _decode(header: "Dataset", ids: HeaderIds, max_megapixels: float) -> Decoded:
    _check_content(header, max_megapixels)
    flags: list[str] = []
    stored = stored_pixels(header, max_megapixels)
    photometric = str(header.get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR":
        stored = (apply_color_lut(stored, header) >> 8).astype(np.uint8)
    if stored.ndim == 3:
        bytes_HWC = stored if stored.dtype == np.uint8 else stretch_to_uint8(stored, 0.0, float(stored.max()))
        pixels_HW, flags = grey_and_colour(bytes_HWC)
    else:
        pixels_HW = _window(header, stored)
    if photometric == "MONOCHROME1":
        pixels_HW, flags = 255 - pixels_HW, [*flags, "inverted_monochrome1"]
    if not header.get("BodyPartExamined"):
        flags.append("body_part_unknown")
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        flags.append("burned_in_annotation")
    return Decoded(pixels_HW, flags=flags, header=ids, view=str(header.get("ViewPosition", "")) or None)


def _check_content(header: "Dataset", max_megapixels: float) -> None:
    if "PixelData" not in header:
        raise Rejected("no pixel data")
    modality = str(header.get("Modality", ""))
    if modality not in RADIOGRAPHS:
        raise Rejected("modality", f"{term(modality, MODALITIES)}, not one of {', '.join(sorted(RADIOGRAPHS))}")
    body_part = str(header.get("BodyPartExamined", "") or "").upper()
    if body_part and not any(word in body_part for word in CHEST_WORDS):
        raise Rejected("body part", f"{term(body_part, BODY_PARTS)}, not chest")
    try:
        frames = int(header.get("NumberOfFrames", 1) or 1)
        rows, columns = int(header.Rows), int(header.Columns)
        samples, bits = int(header.get("SamplesPerPixel", 1)), int(header.get("BitsAllocated", 16))
    except (ValueError, TypeError, AttributeError):
        raise Rejected("damaged DICOM", "frames, rows, columns, samples or bits are no numbers") from None
    if frames > 1:
        raise Rejected("several frames", str(frames))
    if samples not in (1, 3):
        raise Rejected("unsupported pixels", f"{samples} samples a pixel, not 1 or 3")
    check_size(columns, rows, max_megapixels, samples, bits)


def _window(header: "Dataset", stored_HW: np.ndarray) -> np.ndarray:
    """uint8 by the header's window or VOI table; by robust percentiles where it has none or a useless one.

    Every stored value that occurs is mapped once, so that the cost hardly depends on the size of the image.

    Raises:
        Rejected: the values hardly differ.
    """
    index_HW, levels = _levels(stored_HW)
    counts = cv2.calcHist([index_HW], [0], None, [levels.size], [0, levels.size]).ravel().astype(np.int64)
    padding = header.get("PixelPaddingValue")
    outside = np.zeros(counts.size, bool)
    if isinstance(padding, int):
        limit = header.get("PixelPaddingRangeLimit", padding)
        low, high = sorted((padding, limit if isinstance(limit, int) else padding))
        outside = (levels >= low) & (levels <= high)
    counts = np.where(outside, 0, counts)
    occurring = np.flatnonzero(counts)
    if not occurring.size or occurring[-1] - occurring[0] < MIN_LEVELS:
        raise Rejected("constant image", "stored values hardly differ")
    table = _by_header(header, levels.astype(stored_HW.dtype), counts)
    if table is None:
        table = _by_percentiles(_modality(header, levels.astype(stored_HW.dtype)), counts)
    table[outside] = 255 if str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1" else 0
    return table[index_HW]


def _levels(stored_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (HxW, uint8 or uint16) into the levels (int64) that the stored values may have; above 16 bits, merged."""
    if stored_HW.dtype in (np.uint8, np.uint16):
        return stored_HW, np.arange(int(stored_HW.max()) + 1)
    lowest, highest = int(stored_HW.min()), int(stored_HW.max())
    shift = max(0, (highest - lowest).bit_length() - 16)
    index_HW = ((stored_HW.astype(np.int64) - lowest) >> shift).astype(np.uint16)
    return index_HW, lowest + (np.arange((highest - lowest >> shift) + 1) << shift)


def _modality(header: "Dataset", levels: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(apply_modality_lut(levels, header))
    except _UNUSABLE_TABLE:
        return levels


def _by_header(header: "Dataset", levels: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """uint8 of each level by window or VOI table; None where there is none, or none that shows anything."""
    if "WindowCenter" not in header and "VOILUTSequence" not in header:
        return None
    try:
        windowed = np.asarray(apply_voi_lut(_modality(header, levels), header), np.float32)
    except (*_UNUSABLE_TABLE, NotImplementedError):
        return None
    used = windowed[counts > 0]
    low, high = float(used.min()), float(used.max())
    if not high > low:
        return None
    table = stretch_to_uint8(windowed, low, high)
    part = counts / counts.sum()
    mean = float((part * table).sum())
    contrast = float((part * (table.astype(np.float64) - mean) ** 2).sum()) ** 0.5
    clipped = float(part[(table == 0) | (table == 255)].sum())
    return table if contrast >= MIN_WINDOW_CONTRAST and clipped <= MAX_WINDOW_CLIPPED else None


def _by_percentiles(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """uint8 of each level, the used range stretched; a thousandth of the pixels at either end may saturate."""
    order = np.argsort(values, kind="stable")
    part = np.cumsum(counts[order]) / counts.sum()
    low = float(values[order[int(np.searchsorted(part, 0.001))]])
    high = float(values[order[min(int(np.searchsorted(part, 0.999)), part.size - 1)]])
    if high <= low:
        low, high = float(values[counts > 0].min()), float(values[counts > 0].max())
    return stretch_to_uint8(values, low, high)
