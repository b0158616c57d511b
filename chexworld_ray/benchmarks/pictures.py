"""How often the check of pictures is wrong: what it says of good radiographs, and of the same ones spoilt."""

import io
from collections import Counter
from collections.abc import Iterable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from chexworld_ray.benchmarks.measure import machine
from chexworld_ray.benchmarks.picture_material import Material, Sample, disturbed, drawn, in_pieces, radiographs
from chexworld_ray.benchmarks.picture_training import train
from chexworld_ray.shards.manifest import Manifest, load
from chexworld_ray.shards.picture import Weights, flags_of, scores, shipped, weights_of
from chexworld_ray.storage import Place, place, write_bytes

SPOILT = {
    "looks_negative": {"negative": True},
    "looks_turned_90": {"quarters": 1},
    "looks_turned_180": {"quarters": 2},
    "looks_turned_270": {"quarters": 3},
    "looks_mirrored": {"mirrored": True},
}
"""Flag → what makes a good radiograph deserve it (fields of Sample)."""
OF_KIND = {"lateral": "looks_lateral", "other": "looks_no_chest"}
PIECES_SEED = 2


MOST = 5000  # radiographs of a source that are trained on, or that limits are taken from
DRAWN = {"train": 600, "val": 300}  # phantoms from the front, from the side, and drawings of other things, each


def measure_pictures(data: list[str], images: int, train_to: str | None, steps: int) -> dict[str, Any]:
    """One JSON object: error rates on split test, of the shipped weights or of new ones."""
    sets = [load(url) for url in data]
    weights = shipped() if train_to is None else _trained(sets, place(train_to), steps)
    rates = error_rates([*radiographs(sets, "test", images), *drawn("test", images)], weights)
    return {"benchmark": "pictures", "machine": machine(torch.device("cpu"))} | rates


def _trained(sets: list[Manifest], file: Place, steps: int) -> Weights:
    """New weights, written to a file."""
    good = [one for one in [*radiographs(sets, "val", MOST), *drawn("val", DRAWN["val"])] if one.kind == "frontal"]
    material = [*radiographs(sets, "train", MOST), *drawn("train", DRAWN["train"])]
    arrays = train(material, good, steps)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    write_bytes(file, buffer.getvalue())
    return weights_of(arrays)


def error_rates(material: list[Material], weights: Weights) -> dict[str, Any]:
    """For each source of good radiographs how many are flagged, for each flag how many that deserve it have it, and
    milliseconds a picture. Intervals are exact (Clopper and Pearson 1934), by image.
    """
    began, before = perf_counter(), sum(len(one.pictures) for one in material)
    wrongly: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    looked = before
    for one in material:
        if one.kind != "frontal":
            found.setdefault(OF_KIND[one.kind], {})[one.source] = _share(one.pictures, OF_KIND[one.kind], weights)
            continue
        flags = [_flags(picture_HW, weights) for picture_HW in one.pictures]
        wrongly[one.source] = part(sum(map(bool, flags)), len(flags)) | {"by_flag": _counted(flags)}
        for flag, fault in SPOILT.items():
            spoilt = [disturbed(Sample(picture_HW, **fault)) for picture_HW in one.pictures]
            found.setdefault(flag, {})[one.source] = _share(spoilt, flag, weights)
        pieces = in_pieces(one, PIECES_SEED)
        found.setdefault("looks_no_chest", {})[pieces.source] = _share(pieces.pictures, "looks_no_chest", weights)
        looked += (len(SPOILT) + 1) * len(flags)
    spent = perf_counter() - began
    return {"flagged_wrongly": wrongly, "found": found, "ms_per_picture": round(1e3 * spent / max(looked, 1), 3)}


def _share(pictures: Iterable[np.ndarray], flag: str, weights: Weights) -> dict[str, Any]:
    flags = [_flags(picture_HW, weights) for picture_HW in pictures]
    missed = [of_one for of_one in flags if flag not in of_one]
    return part(len(flags) - len(missed), len(flags)) | {"else": _counted(missed)}


def _flags(picture_HW: np.ndarray, weights: Weights) -> list[str]:
    return flags_of(scores(picture_HW, weights) > weights.limits_F, "unknown")


def _counted(flags: list[list[str]]) -> dict[str, int]:
    return dict(sorted(Counter(flag for of_one in flags for flag in of_one).items()))


def part(count: int, images: int) -> dict[str, Any]:
    """A share in per cent with its 95 % interval."""
    if not images:
        return {"count": 0, "images": 0}
    interval = binomtest(count, images).proportion_ci(method="exact")
    percent = {"percent": count / images, "low": interval.low, "high": interval.high}
    return {"count": count, "images": images} | {name: round(100 * value, 1) for name, value in percent.items()}
