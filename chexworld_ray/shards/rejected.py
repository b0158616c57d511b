"""Why a file can't become a radiograph, and the limits of size that every reader of files asks."""

from chexworld_ray.shards.identity import HeaderIds

BYTES_A_PIXEL = 4  # of the largest picture that --max-megapixels allows: 8 bits of four channels, or one of 32 bits
PIXELS_A_BYTE = 2000  # a radiograph of 10 megapixels in 5 kB: no compression of a real one comes near


class Rejected(Exception):
    """This file can't become a radiograph: a reason, in a few words, and the details."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, " ".join(detail.split())
        self.header: HeaderIds | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def check_size(
    width: int, height: int, max_megapixels: float, channels: int = 1, bits: int = 8, what: str = "pixels"
) -> None:
    """Refuse what a header announces to be larger than allowed, or to have no pixels.

    Raises:
        Rejected: with the size.
    """
    if width < 1 or height < 1 or channels < 1:
        raise Rejected("damaged image", f"the header announces {width} x {height} {what}")
    announced = width * height * channels * -(-bits // 8)
    if width * height > max_megapixels * 1e6 or announced > max_megapixels * 1e6 * BYTES_A_PIXEL:
        depth = f" of {channels} x {bits} bits" if channels * bits > 16 else ""
        raise Rejected("too large", f"{width} x {height} {what}{depth}, at most {max_megapixels:g} megapixels")


def check_bytes(width: int, height: int, size: int) -> None:
    """Refuse a picture of a few bytes that announces millions of pixels: it can hold but one colour, and costs as much.

    Raises:
        Rejected: with the bytes and the size.
    """
    if width * height > PIXELS_A_BYTE * max(size, 1000):
        raise Rejected("damaged image", f"{size} bytes for {width} x {height} pixels: cut, or of one colour")


def largest_file(max_megapixels: float) -> int:
    """Bytes of the largest file that is read: uncompressed pixels of 16 bits, and 64 MiB of whatever is beside them."""
    return int(max_megapixels * 2e6) + (64 << 20)
