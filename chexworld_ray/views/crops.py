"""Two crops of one size from one image (WORLD_MODEL: corners (i1, j1), (i2, j2), size h x w).

Runs in the worker's threads, in numpy and OpenCV, both of which release the lock.
"""

import math

import cv2
import numpy as np

from chexworld_ray.config import ViewSettings
from chexworld_ray.hashing import uniform

PURPOSE = 1  # views.random.Purpose.CROP, which this file can't import without torch
ATTEMPTS = 10


def crop_boxes(height: int, width: int, settings: ViewSettings, seed: int, position: int) -> np.ndarray:
    """Boxes of the two crops, int32 2x4: top, left, height, width in pixels of the image.

    Scale and ratio are drawn as torchvision's RandomResizedCrop draws them; if nothing fits in ten attempts,
    the largest centred crop with an allowed ratio is taken.
    """
    draws = uniform(seed, position, PURPOSE, np.arange(2 * ATTEMPTS + 4)).astype(np.float64)
    crop_height, crop_width = _crop_size(height, width, settings, draws[4:])
    rows = np.floor(draws[0:2] * (height - crop_height + 1)).astype(np.int32)
    columns = np.floor(draws[2:4] * (width - crop_width + 1)).astype(np.int32)
    return np.array([[rows[v], columns[v], crop_height, crop_width] for v in range(2)], np.int32)


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


def relative_positions(boxes_B24: np.ndarray) -> np.ndarray:
    """Δ of view 2 seen from view 1, float32 Bx2: ((i2 - i1)/h, (j2 - j1)/w)."""
    corners = boxes_B24[:, :, :2].astype(np.float32)
    return (corners[:, 1] - corners[:, 0]) / boxes_B24[:, 0, 2:].astype(np.float32)
