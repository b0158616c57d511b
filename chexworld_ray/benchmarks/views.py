"""Views on one core: decode and two crops on the host, jitter, actions and masks on the device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch

from chexworld_ray.benchmarks.measure import best_seconds, machine
from chexworld_ray.config import Science
from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.decode import encode_grey_jpeg
from chexworld_ray.storage import fetch, files_below, place
from chexworld_ray.views.batch import CropBatch, crop_image, make_batch

REPEATS = 7
JPEG_QUALITY = 95


@contextmanager
def one_core() -> Iterator[None]:
    """This process on one core, torch and OpenCV on one thread, until the end of the block."""
    cores, threads, cv_threads = os.sched_getaffinity(0), torch.get_num_threads(), cv2.getNumThreads()
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)


def phantom_jpegs(size: int, images: int) -> list[bytes]:
    """Encoded phantoms of size x size pixels."""
    return [encode_grey_jpeg(make_phantom(0, number, size).image_HW, JPEG_QUALITY) for number in range(images)]


def folder_jpegs(folder: str, images: int) -> list[bytes]:
    """The first `images` JPEG files below a folder, by name.

    Raises:
        UserError: there is none.
    """
    files = [file for file in files_below(place(folder)) if file.name.lower().endswith((".jpg", ".jpeg"))]
    if not files:
        raise UserError(f"--folder {folder}: no JPEG file below it")
    return [fetch(file) for file in files[:images]]


def benchmark_views(science: Science, jpegs: list[bytes], device: torch.device) -> dict[str, Any]:
    """Milliseconds an image: simplejpeg's decode (the calibrator), decode and two crops, and the device's part."""
    with one_core():
        calibrator = best_seconds(lambda: [_decode(data) for data in jpegs], REPEATS) / len(jpegs)
        cropping = best_seconds(
            lambda: [crop_image(data, at, science) for at, data in enumerate(jpegs)], REPEATS
        ) / len(jpegs)
        crops, boxes = zip(*(crop_image(data, at, science) for at, data in enumerate(jpegs)), strict=True)
        share = CropBatch(np.stack(crops), np.stack(boxes), np.arange(len(jpegs)), np.ones(len(jpegs), np.float32))
        on_device = best_seconds(lambda: make_batch(share, science, 0.5, 0.25, device), REPEATS, device) / len(jpegs)
        where = machine(device)
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpegs[0])
    return {
        "benchmark": "views",
        "machine": where,
        "image": [height, width],
        "view": science.model.image_size,
        "calibrator_ms": round(1e3 * calibrator, 4),
        "decode_and_crops_ms": round(1e3 * cropping, 4),
        "actions_and_masks_ms": round(1e3 * on_device, 4),
        "images_per_second_of_a_core": round(1.0 / cropping, 1),
        "ours_over_calibrator": round(cropping / calibrator, 3),
        "all_over_calibrator": round((cropping + on_device) / calibrator, 3),
    }


def _decode(data: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, colorspace="GRAY")
