"""What a file is and how large, told by its first bytes, and bounded before it is decoded."""

import io
import struct
import sys
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards import headers
from chexworld_ray.shards.bounds import inflate, memory_bound
from chexworld_ray.shards.decode import DamagedImage, decode_file, open_picture
from chexworld_ray.shards.formats import READ, recognise
from chexworld_ray.shards.masks import decode_mask
from chexworld_ray.shards.rejected import Rejected

PHANTOM = make_phantom(0, 0, 96).image_HW[:, :80]


def saved(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHANTOM).save(buffer, form, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


READERS = {
    headers.png_size: saved("PNG"),
    headers.webp_size: saved("WEBP", lossless=True),
    headers.jpeg2000_size: saved("JPEG2000"),
    headers.jpeg_frame: saved("JPEG"),
}


def rejected(data: bytes, megapixels: float = 100.0) -> str:
    with pytest.raises(Rejected) as caught:
        decode_file(data, megapixels)
    return str(caught.value)


@pytest.mark.parametrize(
    ("reader", "data"),
    [
        *READERS.items(),
        (headers.webp_size, saved("WEBP")),
        (headers.webp_size, saved("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")),
        (headers.jpeg2000_size, imagecodecs.jpeg2k_encode(PHANTOM, codecformat="j2k")),
        (headers.jpeg_frame, saved("JPEG", progressive=True)),
        (headers.jpeg_frame, imagecodecs.jpegls_encode(PHANTOM)),
    ],
)
def test_the_size_is_read_without_decoding(reader: object, data: bytes) -> None:
    found = reader(data)  # pyright: ignore[reportCallIssue]
    size = found.size if isinstance(found, headers.JpegFrame) else found
    assert (size.width, size.height, size.bits) == (80, 96, 8)


@settings(max_examples=200)
@given(
    st.sampled_from(list(READERS)),
    st.integers(0, 400),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=6),
)
def test_a_spoilt_or_cut_header_gives_a_size_or_a_reason(
    reader: object, keep: int, edits: list[tuple[int, int]]
) -> None:
    data = bytearray(READERS[reader][: keep or None])  # pyright: ignore[reportArgumentType]
    for at, value in edits:
        data[at % len(data)] = value
    try:
        reader(bytes(data))  # pyright: ignore[reportCallIssue]
    except Rejected as why:
        assert why.reason == "damaged image"


@settings(max_examples=200)
@given(st.sampled_from([start for starts in READ.values() for start in starts] + [b"RIFF\0\0\0\0WEBP"]), st.binary())
@example(b"\xff\xd8", b"\xff\xff\xff\xff")
@example(b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x01jp2c\xff\xff\xff\xff\xff\xff\xff\xff")
def test_any_bytes_behind_a_format_s_first_are_read_or_rejected(start: bytes, rest: bytes) -> None:
    try:
        decode_file(start + rest, 1.0)
    except Rejected as why:
        assert why.reason in ("damaged image", "too large", "several frames", "constant image", "unsupported format")


@settings(max_examples=100)
@given(st.binary(max_size=64))
def test_any_bytes_are_of_a_format_or_rejected(data: bytes) -> None:
    try:
        assert recognise(data)
    except Rejected as why:
        assert why.reason in ("not an image", "unsupported format", "not downloaded")


@pytest.mark.parametrize("form", ["ICO", "ICNS", "DDS", "EPS", "PPM", "SGI", "PCX", "TGA", "XBM", "PDF", "IM"])
def test_other_decoders_of_pillow_are_never_asked(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(cv2.resize(PHANTOM, (64, 64))).convert("1" if form == "XBM" else "L")
    buffer = io.BytesIO()
    picture.save(buffer, form)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail(f"{form} was handed to Pillow"))
    assert rejected(buffer.getvalue()).split(":")[0] in ("unsupported format", "not an image")
    with pytest.raises(DamagedImage):
        decode_mask(buffer.getvalue())


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported format: PostScript; convert it to PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "unsupported format: HEIC; convert it to PNG"),
        (b"\xff\x0a\x00", "unsupported format: JPEG XL; convert it to PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "not downloaded: a Git LFS pointer"),
        (b"The patient is well.", "not an image"),
    ],
)
def test_a_reject_names_the_format_and_what_to_do(start: bytes, told: str) -> None:
    assert rejected(start + bytes(64)).startswith(told)


def test_a_few_bytes_of_webp_get_no_memory() -> None:
    packed = (16383 - 1) | (16383 - 1) << 14
    data = b"\x2f" + struct.pack("<I", packed) + bytes(9)
    webp = b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    assert rejected(webp) == "too large: 16383 x 16383 pixels of 4 x 8 bits, at most 100 megapixels"
    assert rejected(webp, 1000.0).startswith("damaged image: 34 bytes for 16383 x 16383")


def test_a_tile_larger_than_the_picture_is_refused() -> None:
    code = bytearray(imagecodecs.tiff_encode(np.tile(PHANTOM, (4, 4)), tile=(16, 16)))
    for tag in (322, 323):
        at = next(code.index(entry) for kind in (3, 4) if (entry := struct.pack("<HHI", tag, kind, 1)) in code)
        code[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 60000)
    assert rejected(bytes(code)).startswith("too large: 60000 x 60000 pixels a tile")


def test_many_channels_count_as_their_bytes() -> None:
    head = b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 16, 6, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + bytes(50)
    assert rejected(png) == "too large: 9000 x 9000 pixels of 4 x 16 bits, at most 100 megapixels"


def test_a_telephone_s_second_picture_is_left_out() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PHANTOM).save(
        buffer, "MPO", save_all=True, append_images=[Image.fromarray(255 - PHANTOM[:20, :20])], quality=92
    )
    found = decode_file(buffer.getvalue(), 100.0)
    assert np.corrcoef(found.pixels_HW.ravel(), PHANTOM.ravel())[0, 1] > 0.99
    assert found.flags == []


@pytest.mark.parametrize("code", [1, 3, 6, 8])
def test_a_turned_tiff_is_turned_once_and_says_so(code: int) -> None:
    image, exif = Image.fromarray(PHANTOM), Image.Exif()
    exif[0x0112] = code
    pictures = []
    for form in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        image.save(buffer, form, exif=exif)
        pictures.append(decode_file(buffer.getvalue(), 100.0))
    assert np.array_equal(pictures[0].pixels_HW, pictures[1].pixels_HW)
    assert pictures[0].orientation == pictures[1].orientation
    assert pictures[0].flags == pictures[1].flags


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process this way")
def test_what_asks_for_too_much_memory_is_a_reject_and_the_process_lives_on() -> None:
    with pytest.raises(Rejected, match=r"too large: needs more memory than 1\.1 GB"), memory_bound(1.0):
        np.empty(3 << 30, np.uint8)
    with pytest.raises(Rejected, match="too large"), memory_bound(1.0):
        cv2.resize(np.zeros((8, 8), np.uint8), (60_000, 60_000))
    with pytest.raises(Rejected, match="too large"), memory_bound(1.0):
        open_picture(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes(), 1.0).resize((60_000, 60_000))
    assert np.empty(3 << 30, np.uint8).size == 3 << 30, "the bound is gone after the block"


def test_bounds_of_threads_end_with_the_last() -> None:
    with memory_bound(1.0):
        with memory_bound(1.0):
            pass
        if sys.platform == "linux":
            with pytest.raises(MemoryError):
                np.empty(3 << 30, np.uint8)
    assert np.empty(3 << 30, np.uint8).size


def test_inflating_stops_at_the_limit() -> None:
    packed = zlib.compress(bytes(100_000))
    assert inflate(packed, 100_000) == bytes(100_000)
    with pytest.raises(OverflowError):
        inflate(packed, 99_999)
    with pytest.raises(EOFError):
        inflate(packed[:-6], 100_000)
