"""What a picture announces about itself before a pixel is decoded: of containers, and of the codestreams inside them.

Decoders allocate what a codestream says, whatever the container around it says. Sizes are in pixels.
"""

import io
import struct
import warnings
from typing import NamedTuple

from PIL import TiffImagePlugin

from chexworld_ray.shards.rejected import Rejected

_TIFF_KINDS = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
SOF_LOSSLESS, SOF_LS = frozenset({0xC3, 0xC7, 0xCB, 0xCF}), 0xF7


class Announced(NamedTuple):
    """Size of a picture, by its header."""

    width: int
    height: int
    channels: int
    bits: int
    """Of a channel."""


class JpegFrame(NamedTuple):
    """A JPEG's or JPEG-LS's frame header."""

    size: Announced
    kind: int
    """Second byte of its marker: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3 lossless, 0xF7 JPEG-LS, …"""

    @property
    def deep(self) -> bool:
        """Lossless, JPEG-LS, or of more than 8 bits: none that a common decoder reads."""
        return self.kind in SOF_LOSSLESS or self.kind == SOF_LS or self.size.bits != 8


def png_size(data: bytes) -> Announced:
    """Of a PNG.

    Raises:
        Rejected: its first chunk is no header.
    """
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise Rejected("damaged image", "a PNG without its header")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    return Announced(width, height, _PNG_CHANNELS.get(colour, 4), bits)


def webp_size(data: bytes) -> Announced:
    """Of a WebP: of its canvas, or of its only frame. Pillow asks for memory for all of it when it opens the file.

    Raises:
        Rejected: no known chunk comes first.
    """
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X" and len(body) == 10:
        return Announced(1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"), 4, 8)
    if chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) == 10:
        width, height = struct.unpack("<HH", body[6:10])
        return Announced(width & 0x3FFF, height & 0x3FFF, 4, 8)
    if chunk == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        packed = int.from_bytes(body[1:5], "little")
        return Announced(1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF), 4, 8)
    raise Rejected("damaged image", "a WebP without its header")


def tiff_numbers(data: bytes) -> str | None:
    """What a TIFF's first page says that its pixels are, in words; None where it does not say.

    Only small whole numbers are told: the same tags may hold text.
    """
    file = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if data[2:3] in b"+\0" else 8))
            file.seek(tags.next)
            tags.load(file)
            kind = _TIFF_KINDS.get(tags.get(339, (1,))[0], "integers")
            channels, bits, compression = tags.get(277, 1), max(tags[258]), tags.get(259, 1)
            if not all(isinstance(number, int) and 0 <= number < 1 << 16 for number in (channels, bits, compression)):
                return None
            return f"{channels} x {bits}-bit {kind}, compression {compression}"
    except Exception:  # damaged files make the parser raise whatever it trips over
        return None


def jpeg_frame(data: bytes) -> JpegFrame:
    """Of a JPEG or JPEG-LS codestream.

    Raises:
        Rejected: it breaks off, or its size comes later than its header.
    """
    if data[:2] != b"\xff\xd8":
        raise Rejected("damaged image", "no JPEG begins here")
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            raise Rejected("damaged image", "a JPEG that ends before its frame header")
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in _ALONE or marker == 0:
            at += 2
        elif marker in _SOF:
            if at + 10 > len(data):
                raise Rejected("damaged image", "a JPEG that ends inside its frame header")
            bits, height, width, channels = struct.unpack(">BHHB", data[at + 4 : at + 10])
            return JpegFrame(Announced(width, height, channels, bits), marker)
        elif marker in (0xDA, 0xD9):
            raise Rejected("damaged image", "a JPEG without a frame header")
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def jpeg2000_size(data: bytes) -> Announced:
    """Of a JPEG 2000 file or bare codestream.

    Raises:
        Rejected: no codestream, or none that begins with its size.
    """
    at = 0 if data[:2] == b"\xff\x4f" else _codestream(data)
    if data[at : at + 4] != b"\xff\x4f\xff\x51" or at + 42 > len(data):
        raise Rejected("damaged image", "a JPEG 2000 codestream without its size")
    right, bottom, left, top, tile_width, tile_height, _, _, channels = struct.unpack(">8IH", data[at + 8 : at + 42])
    depths = [1 + (depth & 0x7F) for depth in data[at + 42 : at + 42 + 3 * channels : 3]]
    if right <= left or bottom <= top or not depths or len(depths) != channels or not tile_width or not tile_height:
        raise Rejected("damaged image", "a JPEG 2000 codestream with no area")
    return Announced(right - left, bottom - top, channels, max(depths))


def _codestream(data: bytes) -> int:
    """Where the codestream of a JPEG 2000 file begins."""
    at = 0
    while at + 8 <= len(data):
        length, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind == b"jp2c":
            return at + head
        if length < head:
            break
        at += length
    raise Rejected("damaged image", "a JPEG 2000 file without a codestream")
