"""Bytes of a file → one upright 8-bit grey radiograph with dark lungs. The only image decoder here.

What a file is, is decided by its content, never by its name. What can't become a radiograph raises
`Rejected` with the reason that a user will read in `rejected.parquet`.
"""

import io
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from chexworld_ray.shards.geometry import Orientation

MAX_PIXELS = 150_000_000
GREY_TOLERANCE = 12  # largest mean difference of colour channels that chroma compression explains

ImageFile.LOAD_TRUNCATED_IMAGES = False


class Rejected(Exception):
    """This file can't become a radiograph; the message is the reason."""


@dataclass
class Decoded:
    """A decoded file, not yet cleaned. `pixels_HW` is uint8, turned upright by `orientation`."""

    pixels_HW: np.ndarray
    orientation: Orientation = field(default_factory=Orientation)
    flags: list[str] = field(default_factory=list)
    patient_id: str | None = None
    study_id: str | None = None
    view: str | None = None


def decode_file(data: bytes) -> Decoded:
    """Decode a source file: DICOM, or whatever Pillow reads.

    Raises:
        Rejected: with the reason.
    """
    if not data:
        raise Rejected("empty file")
    if data[128:132] == b"DICM":
        from chexworld_ray.shards.dicom import decode_dicom

        return decode_dicom(data)
    return _decode_picture(data)


def decode_grey_jpeg(data: bytes) -> np.ndarray:
    """uint8 HxW of a grey JPEG out of a shard; releases the lock, so threads decode in parallel."""
    return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=False)[..., 0])


def encode_grey_jpeg(pixels_HW: np.ndarray, quality: int) -> bytes:
    """Single-channel JPEG of a uint8 HxW image."""
    image = np.ascontiguousarray(pixels_HW)[..., None]
    return bytes(simplejpeg.encode_jpeg(image, quality=quality, colorspace="GRAY", colorsubsampling="Gray"))


def decode_mask(data: bytes) -> np.ndarray:
    """Boolean HxW of a mask picture (anything above 0 is inside).

    Raises:
        Rejected: not a picture.
    """
    return np.asarray(_open(data).convert("L")) > 0


def encode_mask(mask_HW: np.ndarray) -> bytes:
    """1-bit PNG of a boolean mask."""
    buffer = io.BytesIO()
    Image.fromarray(mask_HW).convert("1").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def stretch_to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Linear map of [low, high] to [0, 255], clipped."""
    scaled = (values.astype(np.float32) - low) * (255.0 / max(high - low, 1e-6))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def robust_to_uint8(values: np.ndarray) -> np.ndarray:
    """Map the used range to 8 bit; a thousandth of the pixels at either end may saturate."""
    low, high = np.percentile(values, (0.1, 99.9))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return stretch_to_uint8(values, float(low), float(high))


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise Rejected(f"too large: {image.width} x {image.height} pixels")
            image.load()
    except UnidentifiedImageError:
        raise Rejected("not an image") from None
    except Image.DecompressionBombError as error:
        raise Rejected(f"too large: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise Rejected(f"damaged image: {error}") from None
    return image


def _decode_picture(data: bytes) -> Decoded:
    image = _open(data)
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1:
        raise Rejected(f"several frames ({frames})")
    orientation = Orientation.from_exif(int(image.getexif().get(0x0112, 1)))
    flags = [] if orientation == Orientation() else ["exif_rotated"]
    pixels_HW, colour_flags = _grey(image)
    return Decoded(orientation.apply(pixels_HW), orientation, flags + colour_flags)


def _grey(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """uint8 grey pixels in file orientation, and flags."""
    if image.mode.startswith("I") or image.mode == "F":
        values: np.ndarray[Any, Any] = np.asarray(image)
        return robust_to_uint8(values), ["rescaled_to_8_bit"]
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L")), []
    if image.mode == "LA":
        return np.asarray(image.getchannel("L")), ["alpha_dropped"]
    flags = ["alpha_dropped"] if image.mode == "RGBA" else []
    colour_HWC = np.asarray(image.convert("RGB")).astype(np.int16)
    spread_HW = colour_HWC.max(axis=-1) - colour_HWC.min(axis=-1)
    if float((spread_HW > GREY_TOLERANCE).mean()) > 1e-4:
        flags.append("colour")
    return np.asarray(image.convert("RGB").convert("L")), flags
