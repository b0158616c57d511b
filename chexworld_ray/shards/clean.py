"""What makes a decoded picture fit or unfit to learn from."""

import numpy as np

from chexworld_ray.shards.decode import Rejected

MIN_SIDE = 64
MAX_ASPECT = 4.0
MIN_CONTRAST = 2.0  # standard deviation in grey levels
BORDER_LEVEL = 12  # JPEG leaves a black border slightly above 0
MAX_BORDER_OUTLIERS = 0.005  # part of a border line that may be brighter (a stray label, ringing)


def check(pixels_HW: np.ndarray) -> None:
    """Refuse what has no signal or no plausible shape.

    Raises:
        Rejected: with the reason.
    """
    height, width = pixels_HW.shape
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise Rejected(f"aspect ratio {max(height, width) / min(height, width):.0f}:1 is not a radiograph's")
    if min(height, width) < MIN_SIDE:
        raise Rejected(f"too small: {width} x {height} pixels, at least {MIN_SIDE} a side")
    if float(pixels_HW.std()) < MIN_CONTRAST:
        raise Rejected("no signal (constant image)")


def content_box(pixels_HW: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) without the black border; the whole image where a crop would be no radiograph."""
    bright_HW = pixels_HW > BORDER_LEVEL
    rows = np.flatnonzero(bright_HW.mean(axis=1) > MAX_BORDER_OUTLIERS)
    columns = np.flatnonzero(bright_HW.mean(axis=0) > MAX_BORDER_OUTLIERS)
    height, width = pixels_HW.shape
    if not rows.size or not columns.size:
        return 0, 0, height, width
    box = int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
    fits = min(box[2:]) >= MIN_SIDE and max(box[2:]) / min(box[2:]) <= MAX_ASPECT
    return box if fits else (0, 0, height, width)
