"""From encoded rows to the batch that an objective sees.

`crop_share` runs in threads on the host: bytes → uint8 crops. `make_batch` runs on the device: crops → clean
and seen views, actions, masks, relative positions. Both are pure functions of their inputs and the seed.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from chexworld_ray.config import Science
from chexworld_ray.shards.decode import DamagedImage, decode_grey_jpeg
from chexworld_ray.views.actions import make_views, sample_flips
from chexworld_ray.views.crops import crop_boxes, cut
from chexworld_ray.views.masks import Masks, sample_masks
from chexworld_ray.views.relative import relative_positions

VERSION = 1  # of evaluation's views: raise it where `whole_view` gives another than before


@dataclass(frozen=True)
class CropBatch:
    """What crosses to the device: uint8 grey crops and their geometry. Padding rows have weight 0."""

    crops_BVHW: np.ndarray
    boxes_BV4: np.ndarray
    positions_B: np.ndarray
    weights_B: np.ndarray


@dataclass(frozen=True)
class WorldModelBatch:
    """One micro-batch on the device. Pixels are normalised by the data's grey mean and std.

    clean_BVHW, seen_BVHW: float32; actions_BVA: photometric; relative_BV6: where the other view lies in the grid of
    view V (`views.relative`); masks over M = 2B views; weights_B: 1, or 0 on padding; step_1: global batch number.
    """

    clean_BVHW: Tensor
    seen_BVHW: Tensor
    actions_BVA: Tensor
    relative_BV6: Tensor
    masks: Masks
    weights_B: Tensor
    step_1: Tensor


def crop_image(data: bytes, position: int, science: Science) -> tuple[np.ndarray, np.ndarray]:
    """Two uint8 crops (2xSxS) and their boxes (2x4) of one encoded image; zeros for padding (no bytes).

    Raises:
        DamagedImage: it can't be decoded; the position is told.
    """
    size = science.model.image_size
    if not data:
        return np.zeros((2, size, size), np.uint8), np.tile(np.array([0, 0, 1, 1], np.int32), (2, 1))
    try:
        pixels_HW = decode_grey_jpeg(data)
    except DamagedImage as error:
        raise DamagedImage(f"at position {position} of the stream: {error.detail}") from None
    height, width = pixels_HW.shape
    boxes_24 = crop_boxes(height, width, science.views, science.seed, position)
    return np.stack([cut(pixels_HW, box, size) for box in boxes_24]), boxes_24


def whole_view(data: bytes, size: int) -> np.ndarray:
    """uint8 size x size view of a whole image; the aspect ratio is squeezed, as it is in training crops."""
    pixels_HW = decode_grey_jpeg(data)
    shrinks = min(pixels_HW.shape) >= size
    return cv2.resize(pixels_HW, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def crop_share(images: Sequence[bytes], positions: np.ndarray, science: Science, pool: Executor) -> CropBatch:
    """Decode and crop a worker's share of a global batch in a pool of threads.

    Raises:
        DamagedImage: one can't be decoded.
    """
    jobs = [pool.submit(crop_image, data, int(at), science) for data, at in zip(images, positions, strict=True)]
    crops, boxes = zip(*(job.result() for job in jobs), strict=True)
    weights = np.array([1.0 if data else 0.0 for data in images], np.float32)
    return CropBatch(np.stack(crops), np.stack(boxes), positions, weights)


def make_batch(crops: CropBatch, science: Science, mean: float, std: float, device: torch.device) -> WorldModelBatch:
    """The device part: everything batched, all randomness from (seed, position)."""
    positions_B = torch.tensor(crops.positions_B).to(device)
    crops_BVHW = torch.from_numpy(np.ascontiguousarray(crops.crops_BVHW)).to(device, non_blocking=True)
    flips_BV = sample_flips(science.seed, positions_B, science.views)
    if science.views.flip_probability > 0:
        crops_BVHW = torch.where(flips_BV[..., None, None], crops_BVHW.flip(-1), crops_BVHW)
    clean, seen, actions = make_views(crops_BVHW, positions_B, science.views, science.seed)
    masks = sample_masks(science.seed, positions_B, 2, science.model.grid, science.masks)
    return WorldModelBatch(
        clean.sub_(mean).div_(std),
        seen.sub_(mean).div_(std),
        actions,
        relative_positions(torch.from_numpy(crops.boxes_BV4).to(device), flips_BV),
        masks,
        torch.tensor(crops.weights_B).to(device),
        positions_B.max(dim=0, keepdim=True).values // science.global_batch,
    )


def micro_batches(crops: CropBatch, most: int) -> list[CropBatch]:
    """Equal cuts of at most `most` rows; the last is filled with padding of weight 0, so that shapes are static."""
    rows = len(crops.positions_B)
    count = -(-rows // most)
    size = -(-rows // count)
    fields = (crops.crops_BVHW, crops.boxes_BV4, crops.positions_B, crops.weights_B)
    return [
        CropBatch(*(_fill(field[start : start + size], size) for field in fields)) for start in range(0, rows, size)
    ]


def _fill(values: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(values)
    if not missing:
        return values
    padding = np.zeros_like(values[:1]) if values.ndim == 1 else values[:1]
    return np.concatenate([values, np.repeat(padding, missing, axis=0)])
