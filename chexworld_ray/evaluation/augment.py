"""Views of labelled images for training a classifier or a segmenter: random crops in training, the whole at test.

Legend: B images, S side of a view, O organs.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from chexworld_ray.config import ViewSettings
from chexworld_ray.evaluation.settings import AugmentSettings
from chexworld_ray.hashing import Purpose, generator
from chexworld_ray.shards.decode import decode_grey_jpeg
from chexworld_ray.shards.masks import decode_mask
from chexworld_ray.views.crops import crop_boxes, cut

VERSION = 2  # raise it where the same inputs give other scores than before
MARGIN = 256 / 224  # an image is shrunk to that times the view's side, and its centre is taken


def training_views(
    images: Sequence[bytes], keys: np.ndarray, epoch: int, size: int, settings: AugmentSettings, seed: int
) -> np.ndarray:
    """uint8 BxSxS; a view depends on seed, epoch and its key alone."""
    views = []
    for data, key in zip(images, keys, strict=True):
        pixels_HW = decode_grey_jpeg(data)
        box = _box(pixels_HW.shape, int(key), epoch, settings, seed)
        views.append(_jittered(cut(pixels_HW, box, size), int(key), epoch, settings, seed))
    return np.stack(views)


def training_masks(
    masks: Sequence[Sequence[bytes | None]],
    keys: np.ndarray,
    epoch: int,
    size: int,
    settings: AugmentSettings,
    seed: int,
) -> np.ndarray:
    """float32 BxOxSxS, cut as `training_views` cuts their images, whose size masks have; NaN where one is unknown."""
    found = np.full((len(masks), len(masks[0]), size, size), np.nan, np.float32)
    for row, (of_image, key) in enumerate(zip(masks, keys, strict=True)):
        for organ, data in enumerate(of_image):
            if data is not None:
                mask_HW = decode_mask(data)
                box = _box(mask_HW.shape, int(key), epoch, settings, seed)
                found[row, organ] = cut(mask_HW.astype(np.uint8) * 255, box, size) > 127
    return found


def centre_view(data: bytes, size: int) -> np.ndarray:
    """uint8 SxS: the short side at 256/224 of the view's, the centre cut out."""
    pixels_HW = decode_grey_jpeg(data)
    height, width = pixels_HW.shape
    side = min(height, width) / MARGIN
    box = np.array([(height - side) / 2, (width - side) / 2, side, side]).round().astype(int)
    return cut(pixels_HW, box, size)


def whole_mask(data: bytes, size: int) -> np.ndarray:
    """Boolean SxS of a whole mask, squeezed as `views.batch.whole_view` squeezes its image."""
    shrunk = cv2.resize(decode_mask(data).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    return shrunk > 0


def _box(shape: tuple[int, ...], key: int, epoch: int, settings: AugmentSettings, seed: int) -> np.ndarray:
    views = ViewSettings(crop_scale=settings.crop_scale)
    return crop_boxes(shape[0], shape[1], views, seed, key + (epoch << 32), Purpose.FIT_CROP)[0]


def _jittered(view_SS: np.ndarray, key: int, epoch: int, settings: AugmentSettings, seed: int) -> np.ndarray:
    brightness, contrast = generator(seed, Purpose.FIT_JITTER, epoch, key).uniform(-settings.jitter, settings.jitter, 2)
    mean = float(view_SS.mean())
    return cv2.convertScaleAbs(
        view_SS, alpha=(1 + contrast) * (1 + brightness), beta=-contrast * mean * (1 + brightness)
    )
