"""Pictures with 16 bits a colour, which Pillow would cut to their high bytes: of 12 bits a sixteenth would be left."""

import cv2
import numpy as np
from PIL import Image

from chexworld_ray.shards.rejected import Rejected

_WIDTH, _HEIGHT, _BITS, _EXTRA = 256, 257, 258, 338


def deep_colours(data: bytes, image: Image.Image) -> np.ndarray | None:
    """uint16 HxWxC of a PNG or TIFF with 16 bits a channel (grey and alpha, colours, colours and alpha), in file
    orientation and in any order of colours; None for all else, which is Pillow's to read. `image` is not loaded.

    Raises:
        Rejected: damaged.
    """
    if image.format == "PNG" and data[24:25] == b"\x10" and not image.mode.startswith("I"):
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is None:
            raise Rejected("damaged image", "16-bit PNG")
        return values if values.ndim == 3 else values[..., None]
    if image.format == "TIFF" and image.mode.startswith("RGB"):
        tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
        if max(tags.get(_BITS, (1,))) == 16:
            values_HWC = _of_tiff(data, (tags[_HEIGHT], tags[_WIDTH], len(tags[_BITS])))
            return values_HWC[..., :3] if tags.get(_EXTRA) == (0,) else values_HWC  # a channel that means nothing
    return None


def _of_tiff(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    import imagecodecs

    values = np.asarray(imagecodecs.tiff_decode(data, index=0))
    if values.shape == (shape[2], *shape[:2]):  # one plane a colour
        values = np.moveaxis(values, 0, -1)
    if values.shape != shape or values.dtype != np.uint16:
        raise Rejected("damaged image", f"a 16-bit TIFF that holds {values.dtype} of shape {values.shape}")
    return values
