"""Compressed pixels inside DICOM files, and deep JPEGs beside them: exact, or rejected; never half of one with grey."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from codestreams import CODESTREAMS, DEEP, PHANTOM, Codestream
from dicoms import dicom
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.uid import HEVCMP51, DeflatedExplicitVRLittleEndian, RLELossless

from chexworld_ray.shards.codestreams import decode_jpeg
from chexworld_ray.shards.decode import decode_file
from chexworld_ray.shards.dicom_pixels import stored_pixels
from chexworld_ray.shards.rejected import Rejected

JPEGS = [name for name in CODESTREAMS if "2000" not in name]


@pytest.fixture(params=CODESTREAMS)
def stream(request: pytest.FixtureRequest) -> Codestream:
    return CODESTREAMS[request.param]


def rejected(data: bytes, megapixels: float = 100.0) -> str:
    with pytest.raises(Rejected) as caught:
        decode_file(data, megapixels)
    return str(caught.value)


def test_each_transfer_syntax_gives_the_stored_values(stream: Codestream) -> None:
    found_HW = stored_pixels(dcmread(io.BytesIO(stream.dicom())), 100.0)
    assert found_HW.shape == stream.pixels_HW.shape
    assert np.abs(found_HW.astype(int) - stream.pixels_HW).max() <= stream.error
    assert decode_file(stream.dicom(), 100.0).pixels_HW.shape == stream.pixels_HW.shape


@pytest.mark.parametrize("part", [0.05, 0.3, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("closed", [False, True])
def test_a_codestream_cut_anywhere_is_rejected_though_an_end_is_put_behind_it(
    stream: Codestream, part: float, closed: bool
) -> None:
    cut = stream.code[: int(part * len(stream.code))] + (stream.code[-2:] if closed else b"")
    assert rejected(stream.dicom(cut)).split(":")[0] in ("pixel data can't be decoded", "damaged image")


@pytest.mark.parametrize("name", JPEGS)
def test_a_hole_in_a_jpeg_is_rejected(name: str) -> None:
    code = CODESTREAMS[name].code
    middle = len(code) // 2
    rejected(CODESTREAMS[name].dicom(code[:middle] + code[middle + len(code) // 5 :]))


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_cut_run_lengths_are_rejected(part: float) -> None:
    whole = dicom(DEEP, 12, RLELossless)
    file = dcmread(io.BytesIO(whole))
    code = get_frame(file.PixelData, 0, number_of_frames=1)
    runs = Codestream(RLELossless, code, DEEP, 12, 0)
    assert np.array_equal(stored_pixels(dcmread(io.BytesIO(runs.dicom())), 100.0), DEEP)
    assert rejected(runs.dicom(code[: int(part * len(code))])).startswith("pixel data can't be decoded")


def test_padding_behind_a_codestream_harms_nothing(stream: Codestream) -> None:
    plain, padded = stream.dicom(), stream.dicom(stream.code + b"\0" * 6)
    assert np.array_equal(decode_file(plain, 100.0).pixels_HW, decode_file(padded, 100.0).pixels_HW)


@pytest.mark.parametrize("size", [(64, 128), (128, 64), (129, 128)])
def test_a_codestream_of_another_size_than_the_header_is_rejected(stream: Codestream, size: tuple[int, int]) -> None:
    told = rejected(stream.dicom(Rows=size[0], Columns=size[1]))
    assert told.startswith("damaged DICOM: the header says")
    assert "128 x 128 x 1" in told


def test_the_size_inside_is_what_is_bounded(stream: Codestream) -> None:
    """The header may say little, and the codestream, which is what the decoder believes, much."""
    head = 20 if stream.code[:2] == b"\xff\x4f" else None
    code = bytearray(stream.code)
    if head is None:
        at = next(code.index(mark) for mark in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc3", b"\xff\xf7") if mark in code)
        code[at + 5 : at + 9] = struct.pack(">HH", 20000, 20000)
    else:
        code[8:16] = struct.pack(">II", 20000, 20000)
    assert rejected(stream.dicom(bytes(code))) == "too large: 20000 x 20000 pixels, at most 100 megapixels"


@pytest.mark.parametrize("name", [name for name in JPEGS if "baseline" not in name and "8 bits" not in name])
def test_deep_and_lossless_jpegs_are_read_outside_of_dicom_too(name: str) -> None:
    stream = CODESTREAMS[name]
    found = decode_file(stream.code, 100.0)
    assert np.corrcoef(found.pixels_HW.ravel(), PHANTOM.ravel())[0, 1] > 0.99
    assert found.flags == ["rescaled_to_8_bit"]
    assert rejected(stream.code[: len(stream.code) // 2]).startswith("damaged image")


def test_colour_is_left_as_it_was_encoded() -> None:
    colour = np.dstack([PHANTOM, PHANTOM // 2, 255 - PHANTOM])
    assert np.array_equal(decode_jpeg(imagecodecs.jpeg8_encode(colour, lossless=True)), colour)
    assert np.array_equal(decode_jpeg(imagecodecs.jpegls_encode(colour)), colour)
    raw = decode_jpeg(imagecodecs.jpeg8_encode(colour, 98))
    grey = 0.299 * colour[..., 0] + 0.587 * colour[..., 1] + 0.114 * colour[..., 2]
    assert np.abs(raw[..., 0] - grey).mean() < 2, "the first component is the luminance"


def test_a_deflated_file_is_read_and_its_inflating_bounded() -> None:
    whole = dicom(DEEP, 12)
    file = dcmread(io.BytesIO(whole))
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    assert np.array_equal(decode_file(data, 100.0).pixels_HW, decode_file(whole, 100.0).pixels_HW)
    assert rejected(data[: len(data) // 2]) == "damaged DICOM: the deflated data set breaks off or is damaged"
    start = data.index(b"1.2.840.10008.1.2.1.99") + 64
    begin = next(at for at in range(start, len(data)) if _inflates(data[at:]))
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = data[:begin] + packer.compress(bytes(80 << 20)) + packer.flush()
    assert rejected(bomb, 1.0).startswith("too large: the deflated data set inflates to more than")


def _inflates(data: bytes) -> bool:
    try:
        return len(zlib.decompress(data, -zlib.MAX_WBITS)) > 1000
    except zlib.error:
        return False


def test_a_syntax_without_a_decoder_is_named() -> None:
    video = Codestream(HEVCMP51, b"\0" * 64, DEEP, 12, 0)
    assert "HEVC" in rejected(video.dicom())
    assert "no decoder" in rejected(video.dicom())
