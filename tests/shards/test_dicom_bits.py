"""Which bits of a DICOM cell count, whatever codec they went through, and which values are padding."""

import io

import imagecodecs
import numpy as np
import pytest
from codestreams import Codestream
from dicoms import dicom
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.decode import Decoded, decode_file

PHANTOM = make_phantom(0, 1, 128).image_HW
DEEP = PHANTOM.astype(np.uint16) * 14 + 200  # 12 bits
SIGNED = DEEP.astype(np.int16) - 2048
OVERLAY = np.zeros(DEEP.shape, np.uint16)
OVERLAY[40:50, 10:120] = 1


def decode(data: bytes) -> Decoded:
    return decode_file(data, 100.0)


def encoded(cells_HW: np.ndarray, kind: str, **header: object) -> bytes:
    """A file of cells of 16 bits of which 12 are said to be stored."""
    if kind in ("plain", "RLE"):
        whole = dcmread(io.BytesIO(dicom(cells_HW, 16)))
        if kind == "RLE":
            whole.compress(RLELossless, generate_instance_uid=False)
        for keyword, value in ({"BitsStored": 12, "HighBit": 11} | header).items():
            setattr(whole, keyword, value)
        buffer = io.BytesIO()
        whole.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()
    codes: dict[str, tuple[UID, bytes]] = {
        "JPEG 2000": (
            JPEG2000Lossless,
            imagecodecs.jpeg2k_encode(cells_HW, 0, codecformat="j2k", reversible=True, bitspersample=16),
        ),
        "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode(cells_HW)),
        "JPEG lossless": (
            JPEGLosslessSV1,
            imagecodecs.jpeg8_encode(cells_HW, lossless=True, bitspersample=16, predictor=1),
        ),
    }
    return Codestream(*codes[kind], cells_HW, 12, 0).dicom(**header)


KINDS = ["plain", "RLE", "JPEG 2000", "JPEG-LS", "JPEG lossless"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bit", [12, 15])
def test_bits_above_those_stored_are_ignored_and_told_in_every_syntax(kind: str, bit: int) -> None:
    plain = decode(dicom(DEEP, 12))
    found = decode(encoded(DEEP | OVERLAY << bit, kind))
    assert np.array_equal(found.pixels_HW, plain.pixels_HW)
    assert found.flags == ["unused_bits_set"]
    dark = (DEEP < 250).astype(np.uint16)
    assert dark.any()
    assert np.array_equal(decode(encoded(DEEP | dark << bit, kind)).pixels_HW, plain.pixels_HW)


@pytest.mark.parametrize("bits", [9, 10, 11])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_that_go_on_with_the_value_are_kept_and_it_is_in_doubt(bits: int, signed: bool) -> None:
    cells = SIGNED.astype(np.uint16) if signed else DEEP
    header = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    found = decode(encoded(cells, "plain", **header))
    assert np.array_equal(found.pixels_HW, decode(dicom(DEEP, 12)).pixels_HW)
    assert found.flags == ["bits_stored_contradictory"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extended", [False, True])
def test_signed_values_are_read_with_and_without_their_sign_in_the_bits_above(kind: str, extended: bool) -> None:
    plain = decode(dicom(DEEP, 12))
    cells = SIGNED.astype(np.uint16) if extended else SIGNED.astype(np.uint16) & 0x0FFF
    found = decode(encoded(cells, kind, PixelRepresentation=1))
    assert np.array_equal(found.pixels_HW, plain.pixels_HW)
    assert found.flags == []
    assert np.array_equal(
        decode(encoded(cells ^ OVERLAY << 15, kind, PixelRepresentation=1)).pixels_HW, plain.pixels_HW
    )


@pytest.mark.parametrize("syntax", [JPEG2000, JPEGLSNearLossless])
@pytest.mark.parametrize("signed", [False, True])
def test_a_lossy_codec_that_overshoots_does_not_turn_white_into_black(syntax: UID, signed: bool) -> None:
    white = np.clip(PHANTOM.astype(np.int64) * 40, 0, 4095).astype(np.uint16)
    white[::7, ::5] = np.minimum(white[::7, ::5], 3900)  # what rings
    cells = (white.astype(np.int16) - 2048).astype(np.int16) if signed else white
    coded = cells.view(np.uint16)
    code = (
        imagecodecs.jpegls_encode(coded, 9)
        if syntax == JPEGLSNearLossless
        else imagecodecs.jpeg2k_encode(cells, 65, codecformat="j2k", reversible=False, bitspersample=16)
    )
    found = decode(Codestream(syntax, code, white, 12, 0).dicom(PixelRepresentation=int(signed)))
    assert found.pixels_HW[white == 4095].min() > 200
    assert found.flags == []


def test_nor_black_into_white_where_the_codestream_is_signed_and_the_header_not() -> None:
    black = np.clip(PHANTOM.astype(np.int16) * 40 - 2500, 0, 4095)
    code = bytes(imagecodecs.jpeg2k_encode(black, 65, codecformat="j2k", reversible=False, bitspersample=16))
    assert imagecodecs.jpeg2k_decode(code).min() < 0
    found = decode(Codestream(JPEG2000, code, black.astype(np.uint16), 12, 0).dicom())
    assert found.pixels_HW[black == 0].max() < 60
    assert found.flags == []


@pytest.mark.parametrize("kind", KINDS)
def test_values_in_the_upper_bits_of_their_cells_are_shifted_down(kind: str) -> None:
    plain = decode(dicom(DEEP, 12))
    found = decode(encoded(DEEP << 4, kind, HighBit=15))
    assert np.array_equal(found.pixels_HW, plain.pixels_HW)
    assert found.flags == []
    below = decode(encoded(DEEP << 4 | OVERLAY, kind, HighBit=15))
    assert np.array_equal(below.pixels_HW, plain.pixels_HW)
    assert below.flags == ["unused_bits_set"]


def test_a_high_bit_that_the_pixels_contradict_is_not_believed() -> None:
    found = decode(encoded(DEEP, "plain", HighBit=15))
    assert np.array_equal(found.pixels_HW, decode(dicom(DEEP, 12)).pixels_HW)
    assert found.flags == ["high_bit_contradictory"]


def padded(stored: np.ndarray, value: int) -> np.ndarray:
    cells = stored.copy()
    cells[:, :20] = np.array(value).astype(cells.dtype)
    return cells


@pytest.mark.parametrize(
    ("stored", "bits", "cell", "written", "vr"),
    [
        (SIGNED, 16, -32768, 32768, "US"),
        (SIGNED, 16, -32768, -32768, "SS"),
        (SIGNED, 16, -3000, 62536, "US"),
        (SIGNED // 4, 12, -2048, 63488, "US"),
        (SIGNED // 4, 12, -2048, 2048, "US"),
        (DEEP, 16, 65535, -1, "SS"),
        (DEEP, 12, 65535, 65535, "US"),
        (DEEP, 12, 63536, 63536, "US"),
        (DEEP, 12, 4095, 4095, "US"),
    ],
)
def test_padding_is_black_with_whichever_sign_its_value_is_written(
    stored: np.ndarray, bits: int, cell: int, written: int, vr: str
) -> None:
    cells = padded(stored, np.int64(cell).astype(stored.dtype))
    file = dcmread(io.BytesIO(dicom(cells, bits, PixelRepresentation=int(stored.dtype == np.int16))))
    file.add_new("PixelPaddingValue", vr, written)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    found = decode(buffer.getvalue())
    assert found.pixels_HW[:, :20].max() == 0
    assert np.corrcoef(found.pixels_HW[:, 20:].ravel(), PHANTOM[:, 20:].ravel())[0, 1] > 0.99
    assert found.pixels_HW[:, 20:].max() >= 252
    assert found.pixels_HW[:, 20:].min() <= 3


def test_a_padding_value_that_no_pixel_can_have_pads_nothing() -> None:
    """-2000 of CT stands in headers of unsigned pixels too; its lower bits are a value of the lungs."""
    plain = decode(dicom(DEEP, 12))
    assert np.array_equal(decode(dicom(DEEP, 12, PixelPaddingValue=63536)).pixels_HW, plain.pixels_HW)
    everything = dicom(DEEP, 12, PixelPaddingValue=0, PixelPaddingRangeLimit=4095)
    assert np.array_equal(decode(everything).pixels_HW, plain.pixels_HW)


def test_a_range_of_padding_is_black() -> None:
    cells = padded(SIGNED, -32768)
    cells[:20] = -32760
    found = decode(dicom(cells, 16, PixelRepresentation=1, PixelPaddingValue=-32768, PixelPaddingRangeLimit=-32700))
    assert found.pixels_HW[:20].max() == found.pixels_HW[:, :20].max() == 0
    assert np.corrcoef(found.pixels_HW[20:, 20:].ravel(), PHANTOM[20:, 20:].ravel())[0, 1] > 0.99
    assert found.pixels_HW[20:, 20:].min() <= 3
