"""What tags of a picture say and Pillow leaves to its callers: which side is up, and whether 0 of a TIFF is white."""

from PIL import Image, TiffImagePlugin

from chexworld_ray.shards.geometry import Orientation
from chexworld_ray.shards.rejected import check_size

_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 258, 262, 274, 277, 322, 323
_WHITE_IS_ZERO = 0
_TURNED_BY_PILLOW = ("1", "L")  # modes whose WhiteIsZero it turns itself

# deep greys are read whether their 0 is white or black; Pillow knows but some pairs of depth and byte order
for (_order, _photometric, *_rest), _modes in tuple(TiffImagePlugin.OPEN_INFO.items()):
    if _photometric == 1 and _modes[0] not in _TURNED_BY_PILLOW:
        TiffImagePlugin.OPEN_INFO.setdefault((_order, _WHITE_IS_ZERO, *_rest), _modes)  # pyright: ignore


def check_tiff(image: Image.Image, max_megapixels: float) -> None:
    """Refuse a TIFF whose channels, bits or tiles are too large, before it is loaded.

    Raises:
        Rejected: too large.
    """
    tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    channels, bits = int(tags.get(_SAMPLES, 1)), max(tags.get(_BITS, (1,)))
    check_size(image.width, image.height, max_megapixels, channels, bits)
    if _TILE_WIDTH in tags and _TILE_HEIGHT in tags:
        width, height = int(tags[_TILE_WIDTH]), int(tags[_TILE_HEIGHT])
        check_size(width, height, max_megapixels, channels, bits, "pixels a tile")


def polarity(image: Image.Image) -> tuple[bool, list[str]]:
    """Whether what Pillow loaded is still a negative, and flags (TIFF 6.0, PhotometricInterpretation).

    A file without the tag is taken for BlackIsZero, as libtiff does, and flagged; Pillow takes it for WhiteIsZero.
    """
    said = image.tag_v2.get(_PHOTOMETRIC)  # pyright: ignore[reportAttributeAccessIssue]
    white = said == _WHITE_IS_ZERO
    done = image.mode in _TURNED_BY_PILLOW and said in (_WHITE_IS_ZERO, None)
    flags = ["inverted_white_is_zero"] if white else ["polarity_unknown"] if said is None else []
    return white != done, flags


def picture_orientation(image: Image.Image) -> Orientation | None:
    """What a picture's EXIF asks for; None where it can't be read. Asked before a TIFF is loaded, which turns it."""
    if image.format == "PNG":
        image.load()  # EXIF may stand behind the pixels, whose damage is not its
    try:
        return Orientation.from_exif(int(image.getexif().get(_ORIENTATION, 1)))
    except MemoryError:
        raise
    except Exception:  # damaged EXIF makes Pillow raise anything; the pixels may be good
        return None
