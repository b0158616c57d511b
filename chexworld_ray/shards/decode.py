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

from chexworld_ray.errors import UserError
from chexworld_ray.shards.deep_colours import deep_colours
from chexworld_ray.shards.formats import ADVICE, Format, recognise
from chexworld_ray.shards.geometry import UPRIGHT, Orientation
from chexworld_ray.shards.headers import jpeg2000_size, jpeg_frame, png_size, tiff_numbers, webp_size
from chexworld_ray.shards.identity import HeaderIds
from chexworld_ray.shards.picture_tags import check_tiff, picture_orientation, polarity
from chexworld_ray.shards.rejected import Rejected, check_bytes, check_size

GREY_TOLERANCE = 12  # largest difference of colour channels that chroma compression explains
_BAND = 256  # rows that are looked at together, to take little memory beside the picture
_MOST_SAID = 200  # letters of a decoder's message
MOST_STORED = 2**27  # pixels of one image in a shard
MIN_LEVELS = 8  # grey levels of an image of more than 8 bits; fewer are noise around a constant
JSRT_SIDE, JSRT_TOP = 2048, 4095  # raw files of the JSRT data set: side in pixels, highest value

_PILLOW = {"JPEG 2000": "JPEG2000", "WebP": "WEBP"}  # where Pillow's name for a format is another

ImageFile.LOAD_TRUNCATED_IMAGES = False
Image.MAX_IMAGE_PIXELS = None  # the limit is a setting, and is checked on the header


class DamagedImage(UserError, ValueError):
    """An image or mask of a shard that can't be decoded; `detail` says why."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return f"an image of a shard can't be decoded ({self.detail}); chexworld inspect --check finds which"


@dataclass
class Decoded:
    """A decoded file, not yet cleaned. `pixels_HW` is uint8, turned upright by `orientation`."""

    pixels_HW: np.ndarray
    orientation: Orientation = field(default_factory=Orientation)
    flags: list[str] = field(default_factory=list)
    header: HeaderIds | None = None
    """Identifiers of a DICOM header, as they stand there."""
    view: str | None = None


def decode_file(
    data: bytes,
    max_megapixels: float,
    encoding: Literal["detect", "jsrt"] = "detect",
    body_parts: tuple[str, ...] | None = None,
) -> Decoded:
    """Decode a source file: of a format in `formats.READ`, WebP, DICOM, or JSRT's raw one where the adapter says so.

    `body_parts` are words for what a DICOM header must be of (`CleanSettings`).

    Raises:
        Rejected: with the reason.
    """
    if not data:
        raise Rejected("empty file")
    if encoding == "jsrt":
        return _decode_jsrt(data)
    form = recognise(data)
    if form == "DICOM":
        from chexworld_ray.shards.dicom import decode_dicom

        return decode_dicom(data, max_megapixels, body_parts)
    try:
        return _decode_picture(data, form, max_megapixels)
    except (Rejected, MemoryError):
        raise
    except Exception as error:  # a damaged file may make a decoder raise anything; it must not end the run
        raise Rejected("damaged image", _said(error)) from None


def decode_grey_jpeg(data: bytes) -> np.ndarray:
    """uint8 HxW of a grey JPEG out of a shard; releases the lock, so threads decode in parallel.

    Raises:
        DamagedImage: damaged, or larger than what an ingest writes: the shard is somebody else's.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if int(height) * int(width) > MOST_STORED:
            raise DamagedImage(f"{width} x {height} pixels; a shard holds at most {MOST_STORED}")
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=False)[..., 0])
    except DamagedImage:
        raise
    except ValueError as error:
        raise DamagedImage(" ".join(str(error).split())) from None


def encode_grey_jpeg(pixels_HW: np.ndarray, quality: int) -> bytes:
    """Single-channel JPEG of a uint8 HxW image."""
    image = np.ascontiguousarray(pixels_HW)[..., None]
    return bytes(simplejpeg.encode_jpeg(image, quality=quality, colorspace="GRAY", colorsubsampling="Gray"))


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
        Rejected: not a picture of a format that is read, damaged, or too large.
    """
    form = recognise(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_announced(data, form, max_megapixels)
            image = Image.open(io.BytesIO(data), formats=[_PILLOW.get(form, form)])
            check_size(image.width, image.height, max_megapixels)
            if image.format == "TIFF":
                check_tiff(image, max_megapixels)
            if load:
                image.load()
    except UnidentifiedImageError:
        if form == "TIFF" and (numbers := tiff_numbers(data)) is not None:
            raise Rejected("unsupported format", f"a TIFF of {numbers}; {ADVICE}") from None
        raise Rejected("damaged image", f"a {form} that can't be read: damaged, or of an odd kind; {ADVICE}") from None
    except (Rejected, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow's plug-ins raise whatever they trip over
        raise Rejected("damaged image", _said(error)) from None
    return image


def _said(error: Exception) -> str:
    """What Pillow says of damage; of any other error its kind only, for its words may quote what stands in the file."""
    return f"{error}"[:_MOST_SAID] if isinstance(error, OSError | SyntaxError) and str(error) else type(error).__name__


def check_announced(data: bytes, form: Format, max_megapixels: float) -> None:
    """Refuse what a picture's own header announces to be too large, before any decoder sees it.

    Raises:
        Rejected: too large, or no header.
    """
    readers = {"PNG": png_size, "WebP": webp_size, "JPEG 2000": jpeg2000_size}
    size = readers[form](data) if form in readers else jpeg_frame(data).size if form == "JPEG" else None
    if size is not None:
        check_size(size.width, size.height, max_megapixels, size.channels, size.bits)


def grey_and_colour(colour_HWC: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """uint8 luminance of a uint8 RGB picture; flagged where the channels differ by more than compression explains."""
    bands = (colour_HWC[top : top + _BAND] for top in range(0, colour_HWC.shape[0], _BAND))
    differing = sum(int((_spread(band_HWC) > GREY_TOLERANCE).sum()) for band_HWC in bands)
    flags = ["colour"] if differing > 1e-4 * colour_HWC.shape[0] * colour_HWC.shape[1] else []
    return cv2.cvtColor(np.ascontiguousarray(colour_HWC), cv2.COLOR_RGB2GRAY), flags


def _spread(colour_HWC: np.ndarray) -> np.ndarray:
    """Largest minus smallest channel of each pixel."""
    red, green, blue = (colour_HWC[..., channel] for channel in range(3))
    return np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)


def _decode_jsrt(data: bytes) -> Decoded:
    wanted = JSRT_SIDE * JSRT_SIDE * 2
    if len(data) != wanted:
        raise Rejected("damaged image", f"a raw JSRT file has {wanted} bytes, this one {len(data)}")
    values_HW = np.frombuffer(data, ">u2").reshape(JSRT_SIDE, JSRT_SIDE)
    inverted_HW = JSRT_TOP - np.minimum(values_HW, JSRT_TOP).astype(np.uint16)
    return Decoded(robust_to_uint8(inverted_HW), flags=["rescaled_to_8_bit", "inverted"])


def _decode_picture(data: bytes, form: Format, max_megapixels: float) -> Decoded:
    if form == "JPEG" and jpeg_frame(data).deep:
        return _decode_deep_jpeg(data, max_megapixels)
    pixels = _jpeg_pixels(data, max_megapixels) if form == "JPEG" else None
    image = open_picture(data, max_megapixels, load=False)
    check_bytes(image.width, image.height, len(data))
    frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))  # a telephone's thumbnail or gain map
    if frames > 1:
        raise Rejected("several frames", str(frames))
    orientation = picture_orientation(image)
    flags = ["exif_unreadable"] if orientation is None else ["exif_rotated"] if orientation != UPRIGHT else []
    orientation = orientation or UPRIGHT
    if pixels is not None:
        pixels_HW, more = (pixels[..., 0], []) if pixels.shape[-1] == 1 else grey_and_colour(pixels)
    elif (values_HWC := deep_colours(data, image)) is not None:
        pixels_HW, more = _grey_of_deep_colour(values_HWC)
        pixels_HW = orientation.apply(pixels_HW) if form == "TIFF" else pixels_HW
    else:
        image.load()
        pixels_HW, more = _grey(image)
    if form == "TIFF":  # Pillow turns it upright when it loads it
        negative, told = polarity(image)
        pixels_HW, more = (255 - pixels_HW if negative else pixels_HW), more + told
    else:
        pixels_HW = orientation.apply(pixels_HW)
    return Decoded(pixels_HW, orientation, flags + more)


def _jpeg_pixels(data: bytes, max_megapixels: float) -> np.ndarray | None:
    """uint8 HxWx1 or HxWx3 of a JPEG; None for one that is Pillow's to read (CMYK, arithmetic coding, …).

    Damage inside a JPEG makes other decoders warn and go on with grey; here it is refused.
    """
    from chexworld_ray.shards.codestreams import strict_jpeg

    check_announced(data, "JPEG", max_megapixels)
    try:
        colour = simplejpeg.decode_jpeg_header(data)[2]
    except ValueError:
        colour = ""
    space = {"Gray": "GRAY", "YCbCr": "RGB"}.get(colour, "CMYK")
    pixels = strict_jpeg(data, space)
    return None if space == "CMYK" else pixels


def _decode_deep_jpeg(data: bytes, max_megapixels: float) -> Decoded:
    """A JPEG of 12 bits, a lossless one, or a JPEG-LS."""
    from chexworld_ray.shards.codestreams import decode_jpeg

    check_announced(data, "JPEG", max_megapixels)
    values = decode_jpeg(data)
    if values.ndim == 3:
        raise Rejected(
            "unsupported format", f"a JPEG of {values.shape[-1]} channels that is lossless or deep; {ADVICE}"
        )
    if values.dtype == np.uint8:
        return Decoded(values)
    return Decoded(robust_to_uint8(values), flags=["rescaled_to_8_bit"])


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


def _grey_of_deep_colour(values_HWC: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """uint8 grey pixels of uint16 channels (grey or colour, and alpha) in file orientation, and flags."""
    alpha = ["alpha_dropped"] if values_HWC.shape[-1] == 4 else []
    colour_HWC = values_HWC[..., :3]
    grey_HW = robust_to_uint8(colour_HWC.mean(axis=-1).astype(np.uint16))
    spread_HW = colour_HWC.max(axis=-1).astype(np.int32) - colour_HWC.min(axis=-1)
    coloured = float((spread_HW > GREY_TOLERANCE / 255 * max(int(colour_HWC.max()), 1)).mean()) > 1e-4
    return grey_HW, ["rescaled_to_8_bit", *alpha, *(["colour"] if coloured else [])]
