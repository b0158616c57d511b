"""Ingest through Ray Data on all cores, beside its pixel work alone on one."""

import os
import tempfile
import time
from dataclasses import replace
from typing import Any

import torch

from chexworld_ray.benchmarks.ingest import FORMATS, PIXEL_WORK, time_one_core, write_case
from chexworld_ray.benchmarks.measure import machine
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.cluster import connect, say
from chexworld_ray.runtime.ingest import ingest
from chexworld_ray.runtime.memory import MemoryCurve
from chexworld_ray.shards.row import Stopwatch
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.storage import Place, place, remove

FEW = 16  # images of an ingest that shows what it costs to start


def benchmark_ingest(images: int, size: int) -> dict[str, Any]:
    """One JSON object: for each format images/s of a core, where the time goes, and the whole ingest on all cores.

    Parts are fractions of the processors' time (cores x seconds). `other_fraction` is what is left without decoding,
    checking, resizing, encoding and reading files: hashing, joins, Arrow, writing, Ray and idling. What an ingest of a
    few images takes is told apart, as `fixed_seconds`; what cannot be told from its noise is null.

    Raises:
        UserError: too few images to measure.
    """
    if images < 8 * FEW or size < 64:
        raise UserError(f"benchmark ingest: --images must be at least {8 * FEW} and --size at least 64")
    formats: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = place(name)
        for form in FORMATS:
            say(f"{form}: {images} files of {size} x {size} pixels")
            source = write_case(folder / form, form, images, size)
            alone = time_one_core(source, folder / f"{form}-alone")
            connect()
            _timed(source, images, folder / f"{form}-warm", Stopwatch())  # workers have imported what they need
            starts = [_timed(source, FEW, folder / f"{form}-{at}", Stopwatch()) for at in range(3)]
            watch = Stopwatch()
            with MemoryCurve() as curve:
                whole = _timed(source, images, folder / f"{form}-all", watch)
            formats[form] = alone | _through_ray(images, whole, starts, watch.seconds)
            formats[form]["through_ray_memory"] = curve.shown()
            remove(folder / form)
    return {
        "benchmark": "ingest",
        "machine": machine(torch.device("cpu")),
        "images": images,
        "size": size,
        "formats": formats,
    }


def _through_ray(images: int, whole: float, starts: list[float], parts: dict[str, float]) -> dict[str, Any]:
    """Figures of an ingest of `images` in `whole` seconds, without what one of a few takes (seconds of several)."""
    fixed, cores = min(starts), len(os.sched_getaffinity(0))
    told: dict[str, Any] = {"through_ray_fixed_seconds": round(fixed, 2)}
    if whole <= max(starts):
        return told | dict.fromkeys(("through_ray_images_per_second_of_a_core", "through_ray_parts", "other_fraction"))
    spent = cores * (whole - fixed)
    known = sum(parts[name] for name in (*PIXEL_WORK, "read"))
    return told | {
        "through_ray_images_per_second_of_a_core": round((images - FEW) / spent, 1),
        "through_ray_parts": {name: round(seconds / spent, 3) for name, seconds in parts.items()},
        "other_fraction": round(1.0 - known / spent, 3),
    }


def _timed(source: Source, images: int, out: Place, watch: Stopwatch) -> float:
    """Seconds of a whole ingest of the first images; what it wrote is removed."""
    few = replace(source, packed=source.packed[:images], ignored={})
    began = time.perf_counter()
    ingest(few, out.url, WriteSettings(), watch=watch)
    seconds = time.perf_counter() - began
    remove(out)
    return seconds
