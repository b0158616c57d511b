"""A look at the picture itself: is it a negative, turned, mirrored, from the side, or no chest at all?

A small network (`benchmarks.picture_training` makes its weights) sees the stored picture at 32 x 32 pixels. What it
says becomes flags; nothing is changed or set aside. docs/own-data.md has its error rates, and whose images it learnt
from.
"""

from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import cv2
import numpy as np

VERSION = 1
"""Of the weights and limits; a file's record says which looked at its rows."""
SIDE = 32
KINDS = ("frontal", "lateral", "other")
FLAGS = (
    "looks_lateral",
    "looks_no_chest",
    "looks_turned_90",
    "looks_turned_180",
    "looks_turned_270",
    "looks_negative",
    "looks_mirrored",
)
"""In the order of scores and limits. Turns are clockwise: turning back by as much puts the picture upright."""
LOGITS = len(KINDS) + 4 + 2
"""Of the kinds, of 0 to 3 quarter turns clockwise, of a negative, of a mirror image."""
WEIGHTS = "picture.npz"
STRIDE = 2


class Weights(NamedTuple):
    """Of `picture_training.PictureNet`, batch norms folded into the convolutions; float64."""

    convolutions: list[tuple[np.ndarray, np.ndarray]]
    """Kernels (out, in, rows, columns) and biases."""
    dense: list[tuple[np.ndarray, np.ndarray]]
    limits_F: np.ndarray
    """Scores above which each of FLAGS is given."""


def weights_of(arrays: dict[str, np.ndarray]) -> Weights:
    """From named arrays, as `picture_training.folded` makes them and WEIGHTS stores them."""
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    names = sorted(name for name in exact if f"{name}_bias" in exact)
    convolutions, dense = (
        [(exact[name], exact[f"{name}_bias"]) for name in names if name.startswith(kind)]
        for kind in ("convolution", "dense")
    )
    return Weights(convolutions, dense, exact["limits"])


@lru_cache(maxsize=1)
def shipped() -> Weights:
    """The weights that come with the package."""
    with resources.files("chexworld_ray.shards").joinpath(WEIGHTS).open("rb") as file, np.load(file) as stored:
        return weights_of(dict(stored))


def look(pixels_HW: np.ndarray, view: str) -> list[str]:
    """Flags of a stored picture (uint8). `view` is the row's: what it says already is not said again."""
    weights = shipped()
    scores_F = scores(pixels_HW, weights)
    return flags_of(scores_F > weights.limits_F, view)


def flags_of(above_F: np.ndarray, view: str) -> list[str]:
    """Of all that a picture may be, what can be said: of no chest nothing else, and which side is left only of a
    frontal radiograph that stands upright.
    """
    found = [name for name, above in zip(FLAGS, above_F, strict=True) if above]
    if "looks_no_chest" in found:
        return ["looks_no_chest"]
    if view == "lateral" or found != ["looks_mirrored"]:
        found = [name for name in found if name != "looks_mirrored"]
    return [name for name in found if view != "lateral" or name != "looks_lateral"]


def scores(pixels_HW: np.ndarray, weights: Weights) -> np.ndarray:
    """Log-odds of each of FLAGS.

    That of a mirror image is the difference of what the picture and its mirror image score, so that a picture that is
    its own mirror image has 0. In float64 and rounded: so the flags are the same on any machine.
    """
    small_HW = cv2.resize(pixels_HW, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    small_HW = (small_HW - small_HW.mean()) / max(float(small_HW.std()), 1.0)
    logits, reflected = _logits(small_HW, weights), _logits(small_HW[:, ::-1], weights)
    kinds, turns = logits[: len(KINDS)], logits[len(KINDS) : len(KINDS) + 4]
    odds = [_odds(kinds, 1), _odds(kinds, 2), *(_odds(turns, quarters) for quarters in (1, 2, 3))]
    return np.round([*odds, logits[-2], logits[-1] - reflected[-1]], 6)


def _odds(logits: np.ndarray, at: int) -> float:
    return float(logits[at] - np.logaddexp.reduce(np.delete(logits, at)))


def _logits(picture_HW: np.ndarray, weights: Weights) -> np.ndarray:
    features_CHW = picture_HW[None]
    for kernel_OIKK, bias_O in weights.convolutions:
        side = kernel_OIKK.shape[2]
        padded = np.pad(features_CHW, ((0, 0), (side // 2, side // 2), (side // 2, side // 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
        summed_OHW = np.tensordot(kernel_OIKK, windows, axes=((1, 2, 3), (0, 3, 4)))
        features_CHW = np.maximum(summed_OHW + bias_O[:, None, None], 0.0)
    (hidden, hidden_bias), (out, out_bias) = weights.dense
    return out @ np.maximum(hidden @ features_CHW.ravel() + hidden_bias, 0.0) + out_bias
