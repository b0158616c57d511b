"""A file that is not read says what it is, and what to do."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from chexworld_ray.shards.decode import decode_file
from chexworld_ray.shards.formats import recognise, surely_no_dicom
from chexworld_ray.shards.rejected import Rejected

FLOATS = np.linspace(0, 1, 96 * 80).reshape(96, 80)


def told(data: bytes) -> tuple[str, str]:
    with pytest.raises(Rejected) as caught:
        decode_file(data, 100)
    return caught.value.reason, caught.value.detail


def box(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + bytes(64)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (box(b"heic"), "HEIC"),
        (box(b"mif1"), "HEIC"),
        (box(b"avif"), "AVIF"),
        (b"\xff\x0a" + bytes(64), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "JPEG XL"),
        (b"II\xbc\x01" + bytes(64), "JPEG XR"),
        (b"P7\nWIDTH 4\n", "PGM or PPM"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"v/1\x01" + bytes(64), "OpenEXR"),
        (b"qoif" + bytes(64), "QOI"),
        (b"MATLAB 5.0 MAT-file" + bytes(64), "MATLAB"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(64), "7-Zip archive"),
        (b"\n <HTML><body>sign in</body></HTML>", "XML or HTML, perhaps a server's answer"),
        (b"<!DOCTYPE html>", "XML or HTML, perhaps a server's answer"),
        (cv2.imencode(".tif", FLOATS)[1].tobytes(), "a TIFF of 1 x 64-bit floating-point numbers, compression 1"),
    ],
)
def test_a_format_that_is_not_read_is_named(data: bytes, name: str) -> None:
    assert told(data) == ("unsupported format", f"{name}; convert it to PNG, TIFF, JPEG or DICOM")


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s100--abc.png\n", "git annex get"),
        (b"outs:\n- md5: abc\n  size: 3\n  path: a.png\n", "dvc pull"),
    ],
)
def test_a_pointer_says_how_the_file_is_fetched(data: bytes, command: str) -> None:
    reason, detail = told(data)
    assert reason == "not downloaded"
    assert detail.endswith(f"run {command}")


def test_what_has_no_name_is_described_and_not_quoted() -> None:
    assert told(b"Needle, Jane: no effusion\n") == ("not an image", "text")
    assert told(bytes(500)) == ("not an image", "it begins with zeros, as after a copy that was cut short")
    assert told(bytes([200, 1, 2, 3, 4] * 9)) == ("not an image", "no known format")
    assert told("Müller, Hans 1950".encode()) == ("not an image", "text, or no known format")
    assert not surely_no_dicom(bytes(500)), "its path may tell a patient, whatever it is"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize("text", ["Müller, Hans 1950", "Doe, John é", "Ŵilliams"])
def test_nor_is_text_in_any_encoding(text: str, encoding: str) -> None:
    reason, detail = told(text.encode(encoding, "replace"))
    assert reason == "not an image"
    assert detail in ("text", "text, or no known format", "no known format")


def test_a_tiff_that_tells_nothing_of_its_pixels_is_damaged() -> None:
    file = io.BytesIO()
    Image.fromarray((FLOATS * 255).astype(np.uint8)).save(file, "TIFF")
    data = file.getvalue()
    assert recognise(data) == "TIFF"
    assert told(data[:8] + b"\xff" * 40)[0] == "damaged image"
