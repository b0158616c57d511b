"""Files as they are met in real life, and geometry that takes masks along."""

import io
import resource
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.augment import centre_view, whole_mask
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards import clean, masks
from chexworld_ray.shards.decode import Decoded, Rejected, decode_file, decode_grey_jpeg, encode_grey_jpeg
from chexworld_ray.shards.geometry import Geometry, Orientation
from chexworld_ray.shards.masks import boxes_to_mask, decode_mask, encode_mask, runs_to_mask, source_mask
from chexworld_ray.shards.settings import CleanSettings
from chexworld_ray.shards.source import MaskSource

PHANTOM = make_phantom(0, 0, 128).image_HW


def decode(data: bytes) -> Decoded:
    decoded = decode_file(data, CleanSettings().max_megapixels)
    clean.check(decoded.pixels_HW, CleanSettings())
    return decoded


def reason(data: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        decode(data)
    return caught.value.reason


def saved(pixels: np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000"])
def test_a_file_cut_anywhere_is_rejected_or_whole(form: str) -> None:
    """Half an image filled up with grey would be learnt from."""
    data = saved(PHANTOM, form)
    whole = decode(data).pixels_HW
    assert alike(whole, PHANTOM) > 0.95
    for part in (0.02, 0.3, 0.6, 0.9, 0.99):
        try:
            got = decode(data[: int(len(data) * part)]).pixels_HW
        except Rejected:
            continue
        assert np.array_equal(got, whole), (form, part)


@pytest.mark.parametrize("part", [0.2, 0.35, 0.5])
def test_damage_inside_a_file_is_rejected(part: float) -> None:
    jpeg = bytearray(saved(PHANTOM, "JPEG", quality=90))
    at = int(len(jpeg) * part)
    jpeg[at : at + 24] = b"\x13\x77\xaa\x00" * 6
    assert reason(bytes(jpeg)) == "damaged image"
    png = bytearray(saved(PHANTOM, "PNG"))
    png[int(len(png) * part)] ^= 0xFF
    assert reason(bytes(png)) == "damaged image"


@settings(max_examples=150)
@given(
    st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_spoilt_file_is_read_or_rejected_and_nothing_else(form: str, edits: list[tuple[int, int]]) -> None:
    data = bytearray(saved(PHANTOM[::4, ::4], form))
    for at, value in edits:
        data[at % len(data)] = value
    try:
        found = decode_file(bytes(data), 1.0)
    except Rejected as why:
        assert why.reason
    else:
        assert found.pixels_HW.dtype == np.uint8
        assert found.pixels_HW.ndim == 2


def test_padding_after_the_end_harms_nothing() -> None:
    data = saved(PHANTOM, "JPEG")
    assert np.array_equal(decode(data + b"\0" * 100).pixels_HW, decode(data).pixels_HW)


def test_colour_jpegs_lose_their_colour_and_keep_a_flag() -> None:
    grey = decode(saved(np.repeat(PHANTOM[..., None], 3, axis=-1), "JPEG"))
    assert grey.flags == []
    assert alike(grey.pixels_HW, PHANTOM) > 0.99
    drawn = np.repeat(PHANTOM[..., None], 3, axis=-1)
    drawn[10:14, 20:60] = (255, 0, 0)
    assert decode(saved(drawn, "JPEG")).flags == ["colour"]


def test_sixteen_bits_are_stretched_whatever_else_the_file_holds() -> None:
    deep = PHANTOM.astype(np.uint16) * 12 + 300
    plain = decode(cv2.imencode(".png", deep)[1].tobytes())
    alpha = decode(cv2.imencode(".png", np.dstack([deep, deep, deep, np.full_like(deep, 65535)]))[1].tobytes())
    colour = decode(cv2.imencode(".png", np.dstack([deep, deep, deep]))[1].tobytes())
    tiff = decode(cv2.imencode(".tiff", deep)[1].tobytes())
    for found in (plain, alpha, colour, tiff):
        assert alike(found.pixels_HW, PHANTOM) > 0.99
        assert found.pixels_HW.min() <= 3
        assert found.pixels_HW.max() >= 252
        assert "rescaled_to_8_bit" in found.flags
    assert "alpha_dropped" in alpha.flags
    assert "colour" not in colour.flags
    assert reason(cv2.imencode(".png", np.full((80, 80), 900, np.uint16))[1].tobytes()) == "constant image"
    noise = 900 + np.random.default_rng(0).integers(0, 3, (80, 80)).astype(np.uint16)
    assert reason(cv2.imencode(".png", noise)[1].tobytes()) == "constant image"


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header announces more than its few bytes hold."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + head
        + struct.pack(">I", zlib.crc32(head))
        + struct.pack(">I", 9)
        + b"IDAT"
    )


def test_bombs_are_refused_by_their_header() -> None:
    assert reason(bomb(10_001, 10_000)) == "too large"
    assert reason(bomb(9_000, 9_000)) == "damaged image"
    small = CleanSettings(max_megapixels=0.01)
    with pytest.raises(Rejected, match=r"128 x 128 pixels, at most 0\.01 megapixels"):
        decode_file(saved(PHANTOM, "JPEG"), small.max_megapixels)


def test_thresholds_are_settings() -> None:
    rng = np.random.default_rng(0)
    faint = np.clip(rng.normal(100, 1.5, (70, 70)), 0, 255).astype(np.uint8)
    clean.check(faint, CleanSettings())
    for limits, words in (
        (CleanSettings(min_contrast=3.0), "constant image"),
        (CleanSettings(min_side=71), "too small"),
    ):
        with pytest.raises(Rejected, match=words):
            clean.check(faint, limits)
    strip = rng.integers(0, 255, (70, 250), np.uint8)
    clean.check(strip, CleanSettings())
    with pytest.raises(Rejected, match=r"elongated: 250 x 70 pixels, aspect ratio 3\.6:1"):
        clean.check(strip, CleanSettings(max_aspect=3.0))


def test_black_borders_go_though_jpeg_noise_makes_them_not_quite_black() -> None:
    canvas = np.zeros((300, 400), np.uint8)
    canvas[60:188, 100:228] = np.maximum(PHANTOM, 40)
    noisy = decode_grey_jpeg(encode_grey_jpeg(canvas, 60))
    top, left, height, width = clean.content_box(noisy, CleanSettings())
    assert abs(top - 60) <= 8
    assert abs(left - 100) <= 8
    assert abs(top + height - 188) <= 8
    assert abs(left + width - 228) <= 8
    assert clean.content_box(noisy, CleanSettings(crop_borders=False)) == (0, 0, 300, 400)
    picture = np.full((100, 120), 3, np.uint8)
    picture[20:90, 10:110] = 140
    assert clean.content_box(picture, CleanSettings()) == (20, 10, 70, 100)


def test_jsrt_files_are_inverted_big_endian() -> None:
    wanted = cv2.resize(PHANTOM, (2048, 2048)).astype(np.uint16) * 16
    raw = (4095 - wanted).astype(">u2").tobytes()
    decoded = decode_file(raw, 100.0, "jsrt")
    assert alike(decoded.pixels_HW, wanted) > 0.999
    assert decoded.flags == ["rescaled_to_8_bit", "inverted"]
    with pytest.raises(Rejected, match="8388608 bytes"):
        decode_file(raw[:-2], 100.0, "jsrt")


def test_run_lengths_are_relative_and_column_major() -> None:
    mask = runs_to_mask(["4 2 1 1"], (3, 4))
    assert np.argwhere(mask.T).tolist() == [[1, 1], [1, 2], [2, 1]]
    both = runs_to_mask(["0 1", "11 1"], (3, 4))
    assert np.argwhere(both).tolist() == [[0, 0], [2, 3]]
    assert not runs_to_mask([], (3, 4)).any()
    for text in ("1", "a b", "10 5", "-1 4"):
        with pytest.raises(Rejected, match="run lengths"):
            runs_to_mask([text], (3, 4))


def test_boxes_fill_their_area_and_may_leave_the_image() -> None:
    mask = boxes_to_mask([{"x": 1, "y": 2, "w": 2, "h": 1}, {"x": -1, "y": 4, "w": 2, "h": 9}], (6, 5))
    assert np.argwhere(mask).tolist() == [[2, 1], [2, 2], [4, 0], [5, 0]]


def test_exif_orientations_agree_with_pillow() -> None:
    picture = np.arange(80 * 100, dtype=np.uint32).reshape(80, 100).astype(np.uint8)

    for code in range(1, 9):
        image = Image.fromarray(picture)
        exif = image.getexif()
        exif[0x0112] = code
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", exif=exif)
        turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))))
        assert np.array_equal(decode_file(buffer.getvalue(), 100.0).pixels_HW, turned)


@given(
    st.integers(1, 8),
    st.integers(20, 60),
    st.integers(20, 60),
    st.tuples(st.integers(0, 8), st.integers(0, 8)),
    st.integers(12, 80),
)
def test_points_boxes_and_masks_follow_the_image(
    code: int, height: int, width: int, corner: tuple[int, int], longest: int
) -> None:
    """A bright pixel block, its mask, its box and its centre land at the same place."""
    stored = np.zeros((height, width), np.uint8)
    row, col = height // 2, width // 2
    stored[row - 4 : row + 4, col - 4 : col + 4] = 255
    orientation = Orientation.from_exif(code)
    upright = orientation.apply(stored)
    crop = (*corner, upright.shape[0] - corner[0], upright.shape[1] - corner[1])
    geometry = Geometry.plan(orientation, upright.shape, crop, longest)
    image = geometry.image(upright)
    assert max(image.shape) <= longest or image.shape == crop[2:]
    rows, cols = np.nonzero(image > 127)
    if not rows.size:
        return
    slack = 1.5 * image.shape[0] / crop[2] + 1.0
    box = geometry.box({"label": "x", "x": col - 4, "y": row - 4, "w": 8, "h": 8})
    assert abs(box["y"] - rows.min()) <= slack
    assert abs(box["x"] + box["w"] - cols.max() - 1) <= slack
    point = geometry.landmark({"name": "centre", "row": row, "col": col})
    if box["w"] > 0 and rows.min() > 0 and cols.min() > 0:
        assert abs(point["row"] - (rows.min() + rows.max() + 1) / 2) <= slack
        assert abs(point["col"] - (cols.min() + cols.max() + 1) / 2) <= slack
    if not (orientation.transpose and height == width):
        mask = geometry.mask(stored > 0)
        assert mask.shape == image.shape
        assert (mask != (image > 127)).sum() <= 4 * (rows.max() - rows.min() + cols.max() - cols.min() + 4)


def test_jpeg_and_mask_round_trip() -> None:
    y, x = np.mgrid[:70, :90]
    picture = (x + y).astype(np.uint8)
    assert np.abs(decode_grey_jpeg(encode_grey_jpeg(picture, 95)).astype(int) - picture).max() <= 4
    assert np.array_equal(decode_mask(encode_mask(picture > 80)), picture > 80)


def announcing(png: bytes, side: int) -> bytes:
    """A PNG whose header tells a size that it does not have."""
    head = png[12:16] + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]


@pytest.mark.parametrize("kind", ["no picture", "cut", "huge"])
def test_damage_inside_a_sound_shard_is_one_line_for_the_user(kind: str) -> None:
    picture = make_phantom(0, 0, 96).image_HW
    jpeg, png = encode_grey_jpeg(picture, 95), encode_mask(picture > 80)
    huge = bytearray(jpeg)
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    image, mask = {
        "no picture": (b"no picture", b"no picture"),
        "cut": (jpeg[:-200], png[:-60]),
        "huge": (bytes(huge), announcing(png, 60_000)),
    }[kind]
    for view, data in ((centre_view, image), (whole_mask, mask)):
        with pytest.raises(UserError, match=r"^an image of a shard can't be decoded \(.+\); chexworld inspect --check"):
            view(data, 32)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process this way")
def test_masks_bound_memory_in_an_ingest_and_never_in_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    opened = masks.open_picture

    def told(data: bytes, max_megapixels: float) -> Image.Image:
        limits.append(resource.getrlimit(resource.RLIMIT_DATA)[0])
        return opened(data, max_megapixels)

    monkeypatch.setattr(masks, "open_picture", told)
    before = resource.getrlimit(resource.RLIMIT_DATA)[0]
    png = encode_mask(np.eye(8) > 0)
    decode_mask(png)
    source_mask(MaskSource("files", ("a.png",)), lambda _: png, [], (8, 8))
    assert limits[0] == before != limits[1]
