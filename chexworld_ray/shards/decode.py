"""Bytes of a file → one upright 8-bit grey radiograph with dark lungs. The only image decoder here.

What a file is, is decided by its content, never by its name. What can't become a radiograph raises
`Rejected` with the reason that a user will read in `rejected.parquet`.
"""

import io
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from chexworld_ray.shards.geometry import Orientation
from chexworld_ray.shards.identity import HeaderIds

GREY_TOLERANCE = 12  # largest difference of colour channels that chroma compression explains
MIN_LEVELS = 8  # grey levels of an image of more than 8 bits; fewer are noise around a constant
JSRT_SIDE, JSRT_TOP = 2048, 4095  # raw files of the JSRT data set: side in pixels, highest value

_DAMAGED_JPEG = ("remature end", "Huffman", "Corrupt JPEG", "Unsupported marker", "Invalid JPEG", "Inconsistent")

ImageFile.LOAD_TRUNCATED_IMAGES = False
Image.MAX_IMAGE_PIXELS = None  # the limit is a setting, and is checked on the header


class Rejected(Exception):
    """This file can't become a radiograph: a reason, in a few words, and the details."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, " ".join(detail.split())
        self.header: HeaderIds | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass
class Decoded:
    """A decoded file, not yet cleaned. `pixels_HW` is uint8, turned upright by `orientation`."""

    pixels_HW: np.ndarray
    orientation: Orientation = field(default_factory=Orientation)
    flags: list[str] = field(default_factory=list)
    header: HeaderIds | None = None
    """Identifiers of a DICOM header, as they stand there."""
    view: str | None = None


def decode_file(data: bytes, max_megapixels: float, encoding: Literal["detect", "jsrt"] = "detect") -> Decoded:
    """Decode a source file: DICOM, JSRT's raw format where the adapter says so, or whatever Pillow reads.

    Raises:
        Rejected: with the reason.
    """
    if not data:
        raise Rejected("empty file")
    if encoding == "jsrt":
        return _decode_jsrt(data)
    # with the preamble that the standard asks for, or straight from the first group
    if data[128:132] == b"DICM" or (data[:2] in (b"\x02\x00", b"\x08\x00") and data[3:4] == b"\x00"):
        from chexworld_ray.shards.dicom import decode_dicom

        return decode_dicom(data, max_megapixels)
    try:
        return _decode_picture(data, max_megapixels)
    except Rejected:
        raise
    except Exception as error:  # a damaged file may make a decoder raise anything; it must not end the run
        raise Rejected("damaged image", f"{type(error).__name__}: {error}") from None


def decode_grey_jpeg(data: bytes) -> np.ndarray:
    """uint8 HxW of a grey JPEG out of a shard; releases the lock, so threads decode in parallel."""
    return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=False)[..., 0])


def encode_grey_jpeg(pixels_HW: np.ndarray, quality: int) -> bytes:
    """Single-channel JPEG of a uint8 HxW image."""
    image = np.ascontiguousarray(pixels_HW)[..., None]
    return bytes(simplejpeg.encode_jpeg(image, quality=quality, colorspace="GRAY", colorsubsampling="Gray"))


def check_size(width: int, height: int, max_megapixels: float) -> None:
    """Refuse what a header announces to be larger than allowed.

    Raises:
        Rejected: with the size.
    """
    if width * height > max_megapixels * 1e6:
        raise Rejected("too large", f"{width} x {height} pixels, at most {max_megapixels:g} megapixels")


def stretch_to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Linear map of [low, high] to [0, 255], clipped."""
    scaled = (values.astype(np.float32) - low) * (255.0 / max(high - low, 1e-6))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def robust_to_uint8(values: np.ndarray) -> np.ndarray:
    """Map the used range to 8 bit; a thousandth of the pixels at either end may saturate.

    Raises:
        Rejected: the values hardly differ.
    """
    values = np.nan_to_num(values) if values.dtype.kind == "f" else values
    low, high = np.percentile(values, (0.1, 99.9))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low or (values.dtype.kind in "iu" and high - low < MIN_LEVELS):
        raise Rejected("constant image", f"values {low:g} to {high:g}")
    return stretch_to_uint8(values, float(low), float(high))


def open_picture(data: bytes, max_megapixels: float, load: bool = True) -> Image.Image:
    """A whole picture, loaded by Pillow; or its header only.

    Raises:
        Rejected: not a picture, damaged, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            check_size(image.width, image.height, max_megapixels)
            if load:
                image.load()
    except UnidentifiedImageError:
        raise Rejected("not an image") from None
    except Rejected:
        raise
    except Exception as error:  # damaged files make Pillow's plug-ins raise whatever they trip over
        raise Rejected("damaged image", str(error) or type(error).__name__) from None
    return image


def grey_and_colour(colour_HWC: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """uint8 luminance of a uint8 RGB picture; flagged where the channels differ by more than compression explains."""
    spread_HW = colour_HWC.max(axis=-1) - colour_HWC.min(axis=-1)
    flags = ["colour"] if float((spread_HW > GREY_TOLERANCE).mean()) > 1e-4 else []
    return cv2.cvtColor(np.ascontiguousarray(colour_HWC), cv2.COLOR_RGB2GRAY), flags


def _decode_jsrt(data: bytes) -> Decoded:
    wanted = JSRT_SIDE * JSRT_SIDE * 2
    if len(data) != wanted:
        raise Rejected("damaged image", f"a raw JSRT file has {wanted} bytes, this one {len(data)}")
    values_HW = np.frombuffer(data, ">u2").reshape(JSRT_SIDE, JSRT_SIDE)
    inverted_HW = JSRT_TOP - np.minimum(values_HW, JSRT_TOP).astype(np.uint16)
    return Decoded(robust_to_uint8(inverted_HW), flags=["rescaled_to_8_bit", "inverted"])


def _decode_picture(data: bytes, max_megapixels: float) -> Decoded:
    pixels = _jpeg_pixels(data, max_megapixels) if data[:2] == b"\xff\xd8" else None
    image = open_picture(data, max_megapixels, load=pixels is None)
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1:
        raise Rejected("several frames", str(frames))
    orientation = Orientation.from_exif(int(image.getexif().get(0x0112, 1)))
    flags = [] if orientation == Orientation() else ["exif_rotated"]
    if pixels is not None:
        pixels_HW, more = (pixels[..., 0], []) if pixels.shape[-1] == 1 else grey_and_colour(pixels)
    elif data[:4] == b"\x89PNG" and data[24:25] == b"\x10" and not image.mode.startswith("I"):
        pixels_HW, more = _grey_of_deep_png(data)
    else:
        pixels_HW, more = _grey(image)
    return Decoded(orientation.apply(pixels_HW), orientation, flags + more)


def _jpeg_pixels(data: bytes, max_megapixels: float) -> np.ndarray | None:
    """uint8 HxWx1 or HxWx3 of a JPEG; None for one that is Pillow's to read (CMYK, arithmetic coding, …).

    Damage inside a JPEG makes other decoders warn and go on with grey; here it is refused.
    """
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        check_size(int(width), int(height), max_megapixels)
        space = {"Gray": "GRAY", "YCbCr": "RGB"}.get(colour, "CMYK")
        pixels = np.asarray(simplejpeg.decode_jpeg(data, colorspace=space, strict=True))
        return None if space == "CMYK" else pixels
    except ValueError as error:
        said = str(error)
        if any(word in said for word in _DAMAGED_JPEG):
            raise Rejected("damaged image", said) from None
    return None


def _grey(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """uint8 grey pixels in file orientation, and flags."""
    if image.mode.startswith("I") or image.mode == "F":
        values: np.ndarray[Any, Any] = np.asarray(image)
        return robust_to_uint8(values), ["rescaled_to_8_bit"]
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L")), []
    if image.mode in ("LA", "La"):
        return np.asarray(image.getchannel(0)), ["alpha_dropped"]
    alpha = ["alpha_dropped"] if image.mode in ("RGBA", "PA", "RGBa") else []
    grey_HW, flags = grey_and_colour(np.asarray(image.convert("RGB")))
    return grey_HW, alpha + flags


def _grey_of_deep_png(data: bytes) -> tuple[np.ndarray, list[str]]:
    """Grey of a 16-bit PNG with colour or alpha, which Pillow would cut to its high bytes."""
    values_HWC = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values_HWC is None:
        raise Rejected("damaged image", "16-bit PNG")
    alpha = ["alpha_dropped"] if values_HWC.ndim == 3 and values_HWC.shape[-1] == 4 else []
    colour_HWC = values_HWC[..., :3] if values_HWC.ndim == 3 else values_HWC[..., None]
    grey_HW = robust_to_uint8(colour_HWC.mean(axis=-1).astype(np.uint16))
    spread_HW = colour_HWC.max(axis=-1).astype(np.int32) - colour_HWC.min(axis=-1)
    coloured = float((spread_HW > GREY_TOLERANCE / 255 * max(int(colour_HWC.max()), 1)).mean()) > 1e-4
    return grey_HW, ["rescaled_to_8_bit", *alpha, *(["colour"] if coloured else [])]
