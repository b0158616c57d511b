"""DICOM → grey pixels: modality and body part checked, window applied, MONOCHROME1 inverted."""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from chexworld_ray.shards.decode import Decoded, Rejected, robust_to_uint8, stretch_to_uint8

if TYPE_CHECKING:
    from pydicom import Dataset

MODALITIES = {"CR", "DX", "DR", "RG"}
CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "RIB", "PORT CHEST")


def decode_dicom(data: bytes) -> Decoded:
    """Decode one DICOM file that holds a projection radiograph of the chest.

    Raises:
        decode.Rejected: other modality or body part, no or damaged pixels, no decoder for the transfer syntax.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(io.BytesIO(data))
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError) as error:
        raise Rejected(f"damaged DICOM: {error}") from None
    _check_content(header)
    flags: list[str] = []
    pixels_HW = _window(header, _pixels(header))
    if str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        pixels_HW, flags = 255 - pixels_HW, ["inverted_monochrome1"]
    if not header.get("BodyPartExamined"):
        flags.append("body_part_unknown")
    return Decoded(
        pixels_HW,
        flags=flags,
        patient_id=str(header.get("PatientID", "")) or None,
        study_id=str(header.get("StudyInstanceUID", "")) or None,
        view=str(header.get("ViewPosition", "")) or None,
    )


def _check_content(header: "Dataset") -> None:
    if "PixelData" not in header:
        raise Rejected("no pixel data")
    modality = str(header.get("Modality", ""))
    if modality not in MODALITIES:
        raise Rejected(
            f"modality {modality or 'unknown'} is not a projection radiograph ({', '.join(sorted(MODALITIES))})"
        )
    body_part = str(header.get("BodyPartExamined", "")).upper()
    if body_part and not any(word in body_part for word in CHEST_WORDS):
        raise Rejected(f"body part {body_part} is not chest")
    frames = int(header.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise Rejected(f"several frames ({frames})")


def _pixels(header: "Dataset") -> np.ndarray:
    """Stored pixel values, HxW."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = header.pixel_array
    except Exception as error:  # each decoder plug-in raises its own kinds
        name = getattr(syntax, "name", syntax)
        raise Rejected(f"pixel data can't be decoded (transfer syntax {name}): {str(error).splitlines()[0]}") from None
    if values.ndim == 3:
        return values.astype(np.float32).mean(axis=-1)
    return np.asarray(values)


def _window(header: "Dataset", values: np.ndarray) -> np.ndarray:
    """uint8 by the header's window or VOI table; by robust percentiles where it has none or a useless one."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(values, header)
    if "WindowCenter" in header or "VOILUTSequence" in header:
        try:
            windowed = np.asarray(apply_voi_lut(values, header), np.float32)
        except (ValueError, NotImplementedError, TypeError, KeyError):
            windowed = np.zeros(1, np.float32)
        low, high = float(windowed.min()), float(windowed.max())
        if high > low:
            pixels_HW = stretch_to_uint8(windowed, low, high)
            if pixels_HW.std() >= 8:  # a window that leaves hardly any contrast is a wrong window
                return pixels_HW
    return robust_to_uint8(values)
