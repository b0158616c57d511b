"""Masks: from pictures, run lengths or boxes to a boolean array, and to the PNG of a shard."""

import io
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from chexworld_ray.shards.bounds import memory_bound
from chexworld_ray.shards.decode import MOST_STORED, DamagedImage, open_picture
from chexworld_ray.shards.formats import recognise
from chexworld_ray.shards.geometry import UPRIGHT, Orientation
from chexworld_ray.shards.picture_tags import picture_orientation, polarity
from chexworld_ray.shards.rejected import Rejected
from chexworld_ray.shards.source import MaskSource

MAX_MEGAPIXELS = 100.0  # of a picture that an owner gives as a mask


def decode_mask(data: bytes) -> np.ndarray:
    """Boolean HxW of a mask out of a shard; its size is read first.

    Raises:
        DamagedImage: damaged, or larger than what an ingest writes: the shard is somebody else's.
    """
    try:
        return _inside(open_picture(data, MOST_STORED / 1e6))
    except Rejected as why:
        raise DamagedImage(str(why)) from None


def _inside(picture: Image.Image) -> np.ndarray:
    """Boolean HxW of a loaded picture: anything but black is inside."""
    try:
        grey_HW = np.asarray(picture.convert("L"))
    except ValueError as error:  # colours that Pillow can't make grey
        raise Rejected("bad mask", str(error)) from None
    if picture.format == "TIFF" and polarity(picture)[0]:
        return grey_HW < (1 if picture.mode == "F" else 255)
    return grey_HW > 0


def _as_stored(data: bytes, image: Orientation) -> np.ndarray:
    """Boolean HxW of a picture in the geometry of the stored image that it belongs to, which `image` turns upright.

    A picture with a tag of its own says itself how it is turned upright; one without lies as the image does.
    """
    by_pillow = recognise(data) == "TIFF"
    own = picture_orientation(open_picture(data, MAX_MEGAPIXELS, load=False)) if by_pillow else None
    picture = open_picture(data, MAX_MEGAPIXELS)
    inside_HW = _inside(picture)
    own = own or picture_orientation(picture)
    if own in (None, UPRIGHT):
        return inside_HW
    return image.undo(inside_HW if by_pillow else own.apply(inside_HW))


def encode_mask(mask_HW: np.ndarray) -> bytes:
    """1-bit PNG of a boolean mask."""
    buffer = io.BytesIO()
    Image.fromarray(mask_HW).convert("1").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def runs_to_mask(texts: Iterable[str], size: tuple[int, int]) -> np.ndarray:
    """Boolean HxW of relative run lengths, column by column, as SIIM-ACR writes them.

    Each text is "offset length offset length …", an offset counted from the end of the run before; several texts are
    several regions, and the mask is their union.

    Raises:
        Rejected: not pairs of numbers, or a run leaves the image.
    """
    flat = np.zeros(size[0] * size[1], bool)
    for text in texts:
        try:
            numbers = [int(word) for word in text.split()]
        except ValueError:
            raise Rejected("bad mask", f"run lengths {text[:40]!r} are not numbers") from None
        if len(numbers) % 2 or any(number < 0 for number in numbers) or sum(numbers) > flat.size:
            raise Rejected("bad mask", f"run lengths {text[:40]!r} do not fit {size[0]} x {size[1]} pixels")
        at = 0
        for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
            at += offset
            flat[at : at + length] = True
            at += length
    return flat.reshape(size[1], size[0]).T


def boxes_to_mask(boxes: Iterable[dict[str, float]], size: tuple[int, int]) -> np.ndarray:
    """Boolean HxW with every box {x, y, w, h} (pixels) filled."""
    mask_HW = np.zeros(size, bool)
    for box in boxes:
        top, left = max(0, round(float(box["y"]))), max(0, round(float(box["x"])))
        mask_HW[top : round(float(box["y"] + box["h"])), left : round(float(box["x"] + box["w"]))] = True
    return mask_HW


def source_mask(
    mask: MaskSource,
    read: Callable[[str], bytes],
    boxes: list[dict[str, float]],
    stored: tuple[int, int],
    orientation: Orientation = UPRIGHT,
) -> np.ndarray:
    """Boolean HxW of a row's mask, in the geometry of the stored file; `stored` is that file's height and width, and
    `orientation` what its tag asks for.

    Raises:
        Rejected: it can't be read.
    """
    if mask.kind == "runs":
        return runs_to_mask(mask.values, mask.size)
    if mask.kind == "boxes":
        return boxes_to_mask(boxes, stored)
    parts = []
    for path in mask.values:
        data = read(path)
        with memory_bound(MAX_MEGAPIXELS):
            parts.append(_as_stored(data, orientation))
    if len({part.shape for part in parts}) != 1:
        raise Rejected("bad mask", f"the pictures of one mask differ in size: {', '.join(mask.values)}")
    return np.logical_or.reduce(parts)
