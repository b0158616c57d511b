"""Pixel data of a DICOM file: sizes compared with the codestream before it is decoded, one decoder for each syntax."""

import io
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import HTJ2K as HTJ2K_LOSSY
from pydicom.uid import JPEG2000 as JPEG2000_LOSSY
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from chexworld_ray.shards import codestreams
from chexworld_ray.shards.bounds import inflate
from chexworld_ray.shards.header import syntax_name
from chexworld_ray.shards.headers import Announced, jpeg2000_size, jpeg_frame
from chexworld_ray.shards.rejected import Rejected, check_bytes, check_size, largest_file

if TYPE_CHECKING:
    from pydicom import Dataset

_OWN = "chexworld_ray"
_QUOTED = re.compile(r"(?s)(value)(?: of)? '.*'")  # pydicom quotes what stands in an element
_MOST_SAID = 200  # letters of a decoder's message
_JPEG = frozenset(codestreams.DECODER_DEPENDENCIES)
_JPEG_2000 = frozenset({JPEG2000Lossless, JPEG2000_LOSSY, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K_LOSSY})
# one for each syntax, known to refuse what is cut; others that happen to be installed are never used
_PLUGINS = dict.fromkeys(_JPEG, _OWN) | dict.fromkeys((*_JPEG_2000, RLELossless), "pylibjpeg")

_AS_ENCODED = ("correct_unused_bits", "apply_j2k_sign_correction", "apply_jls_sign_correction")  # options of pydicom

for _syntax in _JPEG:
    get_decoder(_syntax).add_plugin(_OWN, (codestreams.__name__, codestreams.decode_frame.__name__))


def read_header(data: bytes, max_megapixels: float) -> "Dataset":
    """The data set of a file; a deflated one is inflated up to the size of the largest file that is read.

    Raises:
        Rejected: it inflates to more, or breaks off.
    """
    deflated = _deflated_part(data)
    if deflated is None:
        return pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
    try:
        plain = inflate(data[deflated:], largest_file(max_megapixels), -zlib.MAX_WBITS)
    except OverflowError as error:
        raise Rejected("too large", f"the deflated data set inflates to {error}") from None
    except (zlib.error, EOFError):
        raise Rejected("damaged DICOM", "the deflated data set breaks off or is damaged") from None
    header = read_dataset(io.BytesIO(plain), is_implicit_VR=False, is_little_endian=True)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return header


def _deflated_part(data: bytes) -> int | None:
    """Where the deflated part of a file begins; None where nothing is deflated. Group 2 is always plain."""
    at = 132 if data[128:132] == b"DICM" else 0
    syntax = b""
    while data[at : at + 2] == b"\x02\x00" and at + 12 <= len(data):
        if data[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"UT"):
            (length,), head = struct.unpack("<I", data[at + 8 : at + 12]), 12
        else:
            (length,), head = struct.unpack("<H", data[at + 6 : at + 8]), 8
        if data[at + 2 : at + 4] == b"\x10\x00":
            syntax = data[at + head : at + head + length].rstrip(b"\0 ")
        at += head + length
    return at if syntax == DeflatedExplicitVRLittleEndian.encode() else None


def stored_pixels(header: "Dataset", max_megapixels: float) -> np.ndarray:
    """Cells of the pixels as they were encoded, unsigned, HxW or HxWx3 (colours as RGB): `dicom_levels` tells the bits
    that count.

    Raises:
        Rejected: cut, damaged, larger than allowed or than the header says, or of a syntax that nothing here decodes.
    """
    syntax = header.file_meta.get("TransferSyntaxUID") if "file_meta" in header.__dict__ else None
    if syntax is None:
        header.file_meta = FileMetaDataset()
        syntax = header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    try:
        if syntax.is_compressed and syntax not in _PLUGINS:
            raise Rejected("pixel data can't be decoded", f"transfer syntax {syntax_name(syntax)}: no decoder")
        if syntax in _JPEG or syntax in _JPEG_2000:
            code = get_frame(header.PixelData, 0, number_of_frames=1)
            inside = jpeg2000_size(code) if syntax in _JPEG_2000 else jpeg_frame(code).size
            check_size(inside.width, inside.height, max_megapixels, inside.channels, inside.bits)
            check_bytes(inside.width, inside.height, len(code))
            _compare(inside, header)
        options: dict[str, Any] = dict.fromkeys(_AS_ENCODED, False)
        if header.get("PixelRepresentation") in (0, 1):
            options["pixel_representation"] = 0
        if header.get("SamplesPerPixel") == 1:
            options["photometric_interpretation"] = "MONOCHROME2"  # grey, whatever word stands there
        cells = np.asarray(pixel_array(header, decoding_plugin=_PLUGINS.get(syntax, ""), **options))
        return cells.astype(cells.dtype.newbyteorder("="), copy=False)
    except (Rejected, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # each decoder plug-in raises its own kinds; one in Rust panics past Exception
        told = _QUOTED.sub(r"\1", str(error)) or type(error).__name__
        said = told.splitlines()[-1].strip().removeprefix(f"{_OWN}: ")[:_MOST_SAID]
        raise Rejected("pixel data can't be decoded", f"transfer syntax {syntax_name(syntax)}: {said}") from None


def _compare(inside: Announced, header: "Dataset") -> None:
    outside = int(header.Columns), int(header.Rows), int(header.SamplesPerPixel)
    if outside != inside[:3]:
        told = [f"{width} x {height} x {channels}" for width, height, channels in (outside, inside[:3])]
        raise Rejected("damaged DICOM", f"the header says {told[0]} samples, the picture inside it {told[1]}")
