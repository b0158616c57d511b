"""Codestreams as devices and archives put them into DICOM files, of one made-up radiograph."""

import io
from typing import NamedTuple

import imagecodecs
import numpy as np
from dicoms import dicom
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from chexworld_ray.phantoms.dataset import make_phantom

PHANTOM = make_phantom(0, 1, 128).image_HW
NOISE = np.random.default_rng(0).integers(0, 14, PHANTOM.shape)
DEEP = (PHANTOM.astype(np.uint16) * 14 + 200 + NOISE).astype(np.uint16)  # 12 bits


class Codestream(NamedTuple):
    syntax: UID
    code: bytes
    pixels_HW: np.ndarray
    bits: int
    error: int
    """Most that a value differs after decoding; of 12 bits, or of 8."""

    def dicom(self, code: bytes | None = None, **header: object) -> bytes:
        """A file around the codestream, or around another in its place."""
        file = dcmread(io.BytesIO(dicom(self.pixels_HW, self.bits, **header)))
        file.file_meta.TransferSyntaxUID = self.syntax
        file.PixelData = encapsulate([self.code if code is None else code])
        file["PixelData"].is_undefined_length = True
        buffer = io.BytesIO()
        file.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def _lossless(predictor: int) -> bytes:
    return imagecodecs.jpeg8_encode(DEEP, lossless=True, bitspersample=12, predictor=predictor)


def _jpeg2000(level: int, reversible: bool) -> bytes:
    return imagecodecs.jpeg2k_encode(DEEP, level, codecformat="j2k", reversible=reversible, bitspersample=12)


CODESTREAMS = {
    "baseline": Codestream(JPEGBaseline8Bit, imagecodecs.jpeg8_encode(PHANTOM, 92), PHANTOM, 8, 20),
    "extended, 8 bits": Codestream(JPEGExtended12Bit, imagecodecs.jpeg8_encode(PHANTOM, 92), PHANTOM, 8, 20),
    "extended, 12 bits": Codestream(
        JPEGExtended12Bit, imagecodecs.jpeg8_encode(DEEP, 95, bitspersample=12), DEEP, 12, 60
    ),
    "lossless, any predictor": Codestream(JPEGLossless, _lossless(5), DEEP, 12, 0),
    "lossless, first predictor": Codestream(JPEGLosslessSV1, _lossless(1), DEEP, 12, 0),
    "JPEG-LS": Codestream(JPEGLSLossless, imagecodecs.jpegls_encode(DEEP), DEEP, 12, 0),
    "JPEG-LS, near": Codestream(JPEGLSNearLossless, imagecodecs.jpegls_encode(DEEP, 3), DEEP, 12, 3),
    "JPEG 2000 lossless": Codestream(JPEG2000Lossless, _jpeg2000(0, True), DEEP, 12, 0),
    "JPEG 2000": Codestream(JPEG2000, _jpeg2000(60, False), DEEP, 12, 40),
}
