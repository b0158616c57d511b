"""TIFF: 0 is white or black at every depth, and a file that does not say so is flagged."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.decode import Decoded, decode_file
from chexworld_ray.shards.rejected import Rejected

PHANTOM = make_phantom(0, 1, 128).image_HW


def tiff(pixels_HW: np.ndarray, photometric: int | None, order: str = "<", bits: int | None = None) -> bytes:
    """A TIFF of one strip, with or without the tag that says what 0 is; `bits` of pixels that are packed already."""
    kind = {"u": 1, "i": 2, "f": 3}[pixels_HW.dtype.kind]
    entries = {
        256: 128,
        257: 128,
        258: bits or 8 * pixels_HW.dtype.itemsize,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: 128,
        279: pixels_HW.nbytes,
        339: kind,
    }
    told = [(tag, value) for tag, value in entries.items() if value is not None]
    strip = pixels_HW.astype(pixels_HW.dtype.newbyteorder(order)).tobytes()
    directory = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        if tag != 279
        else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in told
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(strip))
    return head + strip + struct.pack(f"{order}H", len(told)) + directory + bytes(4)


def alike(found: Decoded) -> float:
    return float(np.corrcoef(found.pixels_HW.ravel(), PHANTOM.ravel())[0, 1])


DEPTHS = {
    "8 bits": (PHANTOM, 255),
    "16 bits": (PHANTOM.astype(np.uint16) * 200, 65535),
    "32 bits": (PHANTOM.astype(np.int32) * 70_000, 2**31 - 1),
    "float": (PHANTOM.astype(np.float32) / 255, 1.0),
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_lungs_are_dark_whether_0_is_white_or_black(depth: str, order: str, photometric: int) -> None:
    pixels_HW, top = DEPTHS[depth]
    stored = (top - pixels_HW).astype(pixels_HW.dtype) if photometric == 0 else pixels_HW
    found = decode_file(tiff(stored, photometric, order), 100.0)
    assert alike(found) > 0.99
    assert ("inverted_white_is_zero" in found.flags) == (photometric == 0)
    assert "polarity_unknown" not in found.flags


@pytest.mark.parametrize("bits", [4, 12])
def test_lungs_are_dark_of_packed_depths_too(bits: int) -> None:
    values = PHANTOM.astype(np.uint16) >> 4 if bits == 4 else PHANTOM.astype(np.uint16) << 4
    for photometric in (0, 1):
        one, two = ((2**bits - 1 - values if photometric == 0 else values).reshape(-1, 2)).T
        if bits == 4:
            packed = (one << 4 | two).astype(np.uint8)
        else:
            packed = np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], axis=-1).astype(np.uint8)
        assert alike(decode_file(tiff(packed, photometric, bits=bits), 100.0)) > 0.99, photometric


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("depth", ["8 bits", "16 bits", "float"])
def test_lungs_are_dark_whatever_compresses_the_file(depth: str, compression: str) -> None:
    pixels_HW, top = DEPTHS[depth]
    buffer = io.BytesIO()
    stored = pixels_HW if depth == "8 bits" else (top - pixels_HW).astype(pixels_HW.dtype)  # Pillow inverts 8 bits
    Image.fromarray(stored).save(buffer, "TIFF", compression=compression, tiffinfo={262: 0})
    found = decode_file(buffer.getvalue(), 100.0)
    assert alike(found) > 0.99
    assert "inverted_white_is_zero" in found.flags


@pytest.mark.parametrize("depth", ["8 bits", "16 bits", "float"])
def test_a_file_that_does_not_say_what_0_is_is_flagged(depth: str) -> None:
    found = decode_file(tiff(DEPTHS[depth][0], None), 100.0)
    assert alike(found) > 0.99
    assert "polarity_unknown" in found.flags


@pytest.mark.parametrize("tags", [*((tag,) for tag in (256, 257, 258, 259, 262, 273, 277, 278, 279, 339)), (322, 323)])
@pytest.mark.parametrize("text", [b"DOE^JOHN 19610203\0", b"DOE^JOHN " * 10_000 + b"\0"])
def test_what_stands_in_a_tag_in_place_of_a_number_is_not_told(tags: tuple[int, ...], text: bytes) -> None:
    data = with_text(tiff(PHANTOM, 1), tags, text)
    try:
        decode_file(data, 100.0)
    except Rejected as why:
        assert "DOE" not in str(why)
        assert len(str(why)) < 200


def with_text(data: bytes, tags: tuple[int, ...], text: bytes) -> bytes:
    """A TIFF of one directory at its end, with text in some of its tags."""
    at = int.from_bytes(data[4:8], "little")
    entries = {
        int.from_bytes(data[here : here + 2], "little"): data[here : here + 12]
        for here in range(at + 2, len(data) - 4, 12)
    }
    entries |= {tag: struct.pack("<HHII", tag, 2, len(text), 8) for tag in tags}
    head, strip = data[:4] + struct.pack("<I", at + len(text)), data[8:at]
    entries[273] = entries[273][:8] + struct.pack("<I", 8 + len(text)) if 273 not in tags else entries[273]
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
    return head + text + strip + directory + bytes(4)


def deep_colour(values_HWC: np.ndarray, order: str, planes: bool, orientation: int, alpha: bool) -> bytes:
    """A TIFF of 16 bits a colour: pixel by pixel, or a plane a colour."""
    height, width, channels = values_HWC.shape
    data = (np.moveaxis(values_HWC, -1, 0) if planes else values_HWC).astype(f"{order}u2").tobytes()
    count, strip = (channels, height * width * 2) if planes else (1, len(data))
    tables = [(16,) * channels], [8 + strip * at for at in range(count)], [strip] * count
    bits = 8 + len(data)
    starts = bits + 2 * channels
    body = data + struct.pack(f"{order}{channels}H{count}I{count}I", *tables[0][0], *tables[1], *tables[2])
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, count, starts if planes else 8), (274, 3, 1, orientation), (277, 3, 1, channels)]
    entries += [(278, 3, 1, height), (279, 4, count, starts + 4 * count if planes else strip)]
    entries += [(284, 3, 1, 2 if planes else 1), *([(338, 3, 1, 2)] if alpha else [])]
    packed = [
        struct.pack(f"{order}HHIHH", tag, kind, many, value, 0)
        if kind == 3 and many == 1
        else struct.pack(f"{order}HHII", tag, kind, many, value)
        for tag, kind, many, value in entries
    ]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(packed)) + b"".join(packed) + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_16_bits_keep_their_greys_and_are_flagged(order: str, planes: bool, alpha: bool) -> None:
    """Values up to 4095, as detectors have: of their high bytes alone 16 greys would be left."""
    grey = PHANTOM[:, :96].astype(np.uint16) * 16
    values_HWC = np.dstack([grey] * 3 + [np.full_like(grey, 65535)] * alpha)
    upright = decode_file(deep_colour(values_HWC, order, planes, 1, alpha), 100.0)
    assert upright.flags == ["rescaled_to_8_bit", *["alpha_dropped"] * alpha]
    assert np.corrcoef(upright.pixels_HW.ravel(), grey.ravel())[0, 1] > 0.999
    assert len(np.unique(upright.pixels_HW)) > 100
    turned = decode_file(deep_colour(np.rot90(values_HWC), order, planes, 6, alpha), 100.0)
    assert np.array_equal(turned.pixels_HW, upright.pixels_HW), "orientation 6 is turned a quarter clockwise"


def test_a_16_bit_colour_tiff_with_colours_says_so() -> None:
    values_HWC = np.dstack([PHANTOM.astype(np.uint16) * factor for factor in (200, 100, 50)])
    assert "colour" in decode_file(deep_colour(values_HWC, "<", False, 1, False), 100.0).flags
