"""JPEG and JPEG-LS codestreams of all depths, whole or not at all; also the decoder of these that pydicom is given.

Common decoders fill what is missing with grey and go on. A JPEG of 8 bits is read by one that stops at damage. For 12
bits and lossless there is none, so that a complete one is told by what its end does: bytes that are put before it
change nothing, for all pixels are known by then.
"""

import re
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import simplejpeg
from pydicom.uid import (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from chexworld_ray.shards.headers import SOF_LS, JpegFrame, jpeg_frame
from chexworld_ray.shards.rejected import Rejected

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

DECODER_DEPENDENCIES = dict.fromkeys(
    (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless),
    ("imagecodecs",),
)
"""Transfer syntaxes that `decode_frame` reads, as pydicom asks for them."""

_DAMAGED = re.compile(r"remature end|Huffman|Corrupt JPEG|Unsupported marker|Invalid JPEG|Inconsistent")
_END = b"\xff\xd9"
_NOISE = bytes(np.random.default_rng(0).integers(0, 255, 512, np.uint8))  # never 0xFF, which would begin a marker


def is_available(uid: str) -> bool:
    """Asked by pydicom."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(code: bytes, runner: "DecodeRunner") -> bytes:
    """One frame for pydicom, its samples as they were encoded, colour by pixel.

    Raises:
        Rejected: damaged or cut.
    """
    values = decode_jpeg(code)
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * values.dtype.itemsize)
    return values.tobytes()


def decode_jpeg(code: bytes) -> np.ndarray:
    """uint8 or uint16 HxW or HxWxC of a JPEG or JPEG-LS, its samples as they were encoded, without colour conversion.

    Its size is to be checked before (`headers.jpeg_frame`).

    Raises:
        Rejected: damaged or cut.
    """
    frame = jpeg_frame(code)
    end = code.rfind(_END)
    if end < 0:  # CharLS needs seconds to find it out
        raise Rejected("damaged image", "a JPEG that breaks off")
    try:
        if frame.kind == SOF_LS:
            values = imagecodecs.jpegls_decode(code)
        elif frame.deep:
            values = _deep(code, end)
        elif frame.size.channels == 1 and (grey := strict_jpeg(code, "GRAY")) is not None:
            values = grey[..., 0]
        else:
            strict_jpeg(code, "RGB" if frame.size.channels == 3 else "CMYK")
            values = _raw(code)
    except (imagecodecs.Jpeg8Error, imagecodecs.JpeglsError, ValueError) as error:
        raise Rejected("damaged image", str(error)) from None
    return _by_pixel(np.asarray(values), frame)


def strict_jpeg(code: bytes, colour: str) -> np.ndarray | None:
    """uint8 HxWxC of a JPEG of 8 bits in a colour space of simplejpeg; None where only others read it.

    Raises:
        Rejected: damaged or cut.
    """
    try:
        return np.asarray(simplejpeg.decode_jpeg(code, colorspace=colour, strict=True))
    except ValueError as error:
        if _DAMAGED.search(str(error)):
            raise Rejected("damaged image", str(error)) from None
        return None


def _raw(code: bytes) -> np.ndarray:
    return imagecodecs.jpeg8_decode(code, colorspace="YCBCR", outcolorspace="YCBCR")


def _deep(code: bytes, end: int) -> np.ndarray:
    values = imagecodecs.jpeg8_decode(code)
    if not np.array_equal(values, imagecodecs.jpeg8_decode(code[:end] + _NOISE + _END)):
        raise Rejected("damaged image", "a JPEG with less data than pixels")
    return values


def _by_pixel(values: np.ndarray, frame: JpegFrame) -> np.ndarray:
    """HxW or HxWxC, whatever way the planes were interleaved."""
    size = frame.size
    if values.ndim == 3 and values.shape != (size.height, size.width, size.channels):
        values = np.moveaxis(values, 0, -1)
    values = values[..., 0] if values.ndim == 3 and size.channels == 1 else values
    wanted = (size.height, size.width) if size.channels == 1 else (size.height, size.width, size.channels)
    if values.shape != wanted:
        raise Rejected("damaged image", f"{values.shape} samples, the frame header says {wanted}")
    return np.ascontiguousarray(values)
