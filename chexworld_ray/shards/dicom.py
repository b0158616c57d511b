"""DICOM → grey pixels: modality and body part checked, then as `dicom_grey` shows them; colours as their luminance."""

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
from pydicom import config
from pydicom.pixels.processing import apply_color_lut

from chexworld_ray.shards.body_parts import body_part
from chexworld_ray.shards.decode import Decoded, grey_and_colour, stretch_to_uint8
from chexworld_ray.shards.dicom_grey import grey_picture
from chexworld_ray.shards.dicom_levels import Cell
from chexworld_ray.shards.dicom_pixels import read_header, stored_pixels
from chexworld_ray.shards.header import MODALITIES, drop_damaged, header_ids, term
from chexworld_ray.shards.identity import HeaderIds
from chexworld_ray.shards.rejected import Rejected, check_size

if TYPE_CHECKING:
    from pydicom import Dataset

RADIOGRAPHS = {"CR", "DX", "DR", "RG"}

# what pydicom has to say about a header quotes the header
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
config.settings.reading_validation_mode = config.IGNORE


def decode_dicom(data: bytes, max_megapixels: float, body_parts: tuple[str, ...] | None = None) -> Decoded:
    """Decode one DICOM file that holds a projection radiograph of the chest, or of a part that `body_parts` names.

    Raises:
        rejected.Rejected: other modality or body part, no or damaged pixels, no decoder for the transfer syntax. Its
            `header` has the identifiers, its details never quote them.
    """
    ids = HeaderIds()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = read_header(data, max_megapixels)
            damaged = drop_damaged(header)
            ids = header_ids(header)
            decoded = _decode(header, ids, max_megapixels, body_parts)
            decoded.flags += damaged
            return decoded
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


def _decode(header: "Dataset", ids: HeaderIds, max_megapixels: float, body_parts: tuple[str, ...] | None) -> Decoded:
    part_flags = _check_content(header, max_megapixels, body_parts)
    cells = stored_pixels(header, max_megapixels)
    if cells.ndim == 3 or str(header.get("PhotometricInterpretation")).strip().upper() == "PALETTE COLOR":
        pixels_HW, flags = _colour(header, cells)
    else:
        pixels_HW, flags = grey_picture(header, cells)
    flags += part_flags
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        flags.append("burned_in_annotation")
    return Decoded(pixels_HW, flags=flags, header=ids, view=str(header.get("ViewPosition", "")) or None)


def _check_content(header: "Dataset", max_megapixels: float, body_parts: tuple[str, ...] | None) -> list[str]:
    """Refuse what is no radiograph of a wanted part; flags, where the part is in doubt."""
    if "PixelData" not in header:
        raise Rejected("no pixel data")
    modality = str(header.get("Modality") or "").strip().upper()
    if modality not in RADIOGRAPHS:
        raise Rejected("modality", f"{term(modality, MODALITIES)}, not one of {', '.join(sorted(RADIOGRAPHS))}")
    part = body_part(header, body_parts)
    if part.kind == "other":
        wanted = "chest" if body_parts is None else ", ".join(body_parts)
        raise Rejected("body part", f"{part.word}, not {wanted}; --body-parts names what is taken")
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
    return ["body_part_unknown"] if part.kind == "unknown" else []


def _colour(header: "Dataset", cells: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """uint8 luminance and flags of a picture in colours, or of indices into a palette."""
    values = Cell.of(header, 8 * cells.dtype.itemsize).values(cells).astype(cells.dtype)
    if values.ndim == 2:
        values = np.asarray(apply_color_lut(values, header))
        values = values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)
    return grey_and_colour(values if values.dtype == np.uint8 else stretch_to_uint8(values, 0.0, float(values.max())))
