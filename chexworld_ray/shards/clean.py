"""What makes a decoded picture fit or unfit to learn from."""

import cv2
import numpy as np

from chexworld_ray.shards.rejected import Rejected
from chexworld_ray.shards.settings import CleanSettings

BORDER_LEVEL = 12  # JPEG leaves a black border slightly above 0
MAX_BORDER_OUTLIERS = 0.005  # part of a border line that may be brighter (a stray label, ringing)


def check(pixels_HW: np.ndarray, settings: CleanSettings) -> None:
    """Refuse what has no signal or no plausible shape.

    Raises:
        Rejected: with the reason.
    """
    height, width = pixels_HW.shape
    aspect = max(height, width) / min(height, width)
    if aspect > settings.max_aspect:
        raise Rejected("elongated", f"{width} x {height} pixels, aspect ratio {aspect:.1f}:1")
    if min(height, width) < settings.min_side:
        raise Rejected("too small", f"{width} x {height} pixels, at least {settings.min_side} a side")
    contrast = float(cv2.meanStdDev(np.ascontiguousarray(pixels_HW))[1][0, 0])
    if contrast < settings.min_contrast:
        raise Rejected("constant image", f"standard deviation {contrast:.2f} of 255")


def content_box(pixels_HW: np.ndarray, settings: CleanSettings) -> tuple[int, int, int, int]:
    """(top, left, height, width) without the black border; the whole image where a crop would be no radiograph."""
    height, width = pixels_HW.shape
    if not settings.crop_borders:
        return 0, 0, height, width
    bright_HW = cv2.threshold(np.ascontiguousarray(pixels_HW), BORDER_LEVEL, 1, cv2.THRESH_BINARY)[1]
    rows = np.flatnonzero(cv2.reduce(bright_HW, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S) > MAX_BORDER_OUTLIERS * width)
    columns = np.flatnonzero(cv2.reduce(bright_HW, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S) > MAX_BORDER_OUTLIERS * height)
    if not rows.size or not columns.size:
        return 0, 0, height, width
    box = int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
    fits = min(box[2:]) >= settings.min_side and max(box[2:]) / min(box[2:]) <= settings.max_aspect
    return box if fits else (0, 0, height, width)
