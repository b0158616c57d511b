"""How well two masks of one image agree."""

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

VERSION = 1  # raise it where the same inputs give other scores than before


def dice(found_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """2|A∩B| / (|A|+|B|) of boolean masks; 1 where both are empty."""
    total = int(found_HW.sum()) + int(truth_HW.sum())
    return 1.0 if total == 0 else 2.0 * int((found_HW & truth_HW).sum()) / total


def hd95(found_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """95th percentile of the distances between both outlines, in pixels; NaN where a mask is empty.

    The larger of the two directions' percentiles, as in MONAI and in the BraTS challenges.
    """
    if not found_HW.any() or not truth_HW.any():
        return float("nan")
    outlines = [mask & ~np.asarray(binary_erosion(mask), bool) for mask in (found_HW, truth_HW)]
    to_found, to_truth = (np.asarray(distance_transform_edt(~outline)) for outline in outlines)
    return float(max(np.percentile(to_truth[outlines[0]], 95), np.percentile(to_found[outlines[1]], 95)))
