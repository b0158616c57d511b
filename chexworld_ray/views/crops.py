"""Two crops of one image, of one size unless asked (WORLD_MODEL: corners (i1, j1), (i2, j2), size h x w).

Runs in the worker's threads, in numpy and OpenCV, both of which release the lock.
"""

import math

import cv2
import numpy as np

from chexworld_ray.config import ViewSettings
from chexworld_ray.hashing import Purpose, uniform

VERSION = 1  # of evaluation's views: raise it where the same inputs give another crop than before
ATTEMPTS = 10
_CORNERS = 4  # draws: rows of both corners, then columns
_OWN_SIZE = np.arange(_CORNERS + 2 * ATTEMPTS, _CORNERS + 4 * ATTEMPTS)
_MORE_CORNERS = np.arange(_OWN_SIZE[-1] + 1, _OWN_SIZE[-1] + 1 + 32 * _CORNERS)


def crop_boxes(
    height: int, width: int, settings: ViewSettings, seed: int, position: int, purpose: Purpose = Purpose.CROP
) -> np.ndarray:
    """Boxes of the two crops, int32 2x4: top, left, height, width in pixels of the image.

    Scale and ratio are drawn as torchvision's RandomResizedCrop draws them; if nothing fits in ten attempts,
    the largest centred crop with an allowed ratio is taken. Corners are drawn anew until the overlap lies in its
    range; if it never does, the draw that comes nearest is taken.
    """
    draws = uniform(seed, position, purpose, np.arange(_CORNERS + 2 * ATTEMPTS)).astype(np.float64)
    first = _crop_size(height, width, settings, draws[_CORNERS:])
    second = first
    if settings.crop_sizes == "own":
        second = _crop_size(height, width, settings, uniform(seed, position, purpose, _OWN_SIZE).astype(np.float64))
    sizes_22 = np.array([first, second])
    boxes_24 = _boxes(draws[None, :_CORNERS], sizes_22, height, width)[0]
    low, high = settings.crop_overlap
    if low <= overlap(boxes_24) <= high:
        return boxes_24
    again = uniform(seed, position, purpose, _MORE_CORNERS).astype(np.float64)
    boxes_C24 = _boxes(again.reshape(-1, _CORNERS), sizes_22, height, width)
    covered_C = overlap(boxes_C24)
    misses_C = np.maximum(low - covered_C, covered_C - high).clip(min=0.0)
    return boxes_C24[int(misses_C.argmin())]


def overlap(boxes_24: np.ndarray) -> np.ndarray:
    """Part of the smaller box that the other covers, for pairs ...x2x4 of boxes."""
    near, size = boxes_24[..., :2], boxes_24[..., 2:]
    shared = (near + size).min(axis=-2) - near.max(axis=-2)
    return shared.clip(min=0).prod(axis=-1) / size.prod(axis=-1).min(axis=-1)


def _boxes(corners_C4: np.ndarray, sizes_22: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes of C pairs, int32 Cx2x4; of the four draws: rows of both corners, then columns."""
    free_22 = np.array([height, width]) - sizes_22 + 1
    near_C22 = np.floor(corners_C4.reshape(-1, 2, 2).swapaxes(1, 2) * free_22)
    return np.concatenate([near_C22, np.broadcast_to(sizes_22, near_C22.shape)], axis=-1).astype(np.int32)


def _crop_size(height: int, width: int, settings: ViewSettings, draws: np.ndarray) -> tuple[int, int]:
    low_ratio, high_ratio = settings.crop_ratio
    for attempt in range(ATTEMPTS):
        scale = settings.crop_scale[0] + draws[2 * attempt] * (settings.crop_scale[1] - settings.crop_scale[0])
        log_ratio = math.log(low_ratio) + draws[2 * attempt + 1] * (math.log(high_ratio) - math.log(low_ratio))
        area, ratio = scale * height * width, math.exp(log_ratio)
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            return crop_height, crop_width
    ratio = min(max(width / height, low_ratio), high_ratio)
    return min(height, round(width / ratio)), min(width, round(height * ratio))


def cut(pixels_HW: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """uint8 size x size view of one box: area averaging when it shrinks, linear interpolation when it grows."""
    top, left, height, width = (int(value) for value in box)
    window = pixels_HW[top : top + height, left : left + width]
    shrinks = height >= size and width >= size
    return cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
