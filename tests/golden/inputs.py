"""What the golden numbers are computed from. Nothing here depends on torch's generators, a decoder or a resizer.

Weights come from numpy's RandomState, whose streams are frozen by numpy's policy; `uniform` uses no library of
mathematics, so its numbers are the same everywhere. Pixels are integers of a formula.
"""

import math
import zlib
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from chexworld_ray.config import MaskSettings, ModelSettings, OptimSettings, Science, ViewSettings
from chexworld_ray.models.encoder import build_encoder, suit_device
from chexworld_ray.objectives.world_model import WorldModel
from chexworld_ray.views.batch import CropBatch

Group: TypeAlias = dict[str, list[int] | list[float] | list[str]]

CPU = torch.device("cpu")
PIXELS = (0.45, 0.27)  # mean and std that views are normalised by
SIZE, PATCH = 32, 8
MODEL = ModelSettings(
    image_size=SIZE, patch_size=PATCH, width=32, depth=2, heads=2, predictor_width=16, predictor_depth=2
)
VIEWS = ViewSettings(flip_probability=0.5, blur_probability=0.5, blur_side=SIZE, noise_sigma=(0.02, 0.1))
"""The defaults, but all that can be drawn is drawn often, and blurred enough, to be seen in a few small images."""
SCIENCE = Science(
    model=MODEL,
    views=VIEWS,
    masks=MaskSettings(context_tokens=7, target_tokens=8),
    # no value is a default of torch, and some gradients are clipped, some are not
    optim=OptimSettings(lr=2e-3, warmup=0.25, weight_decay=0.5, betas=(0.8, 0.98), clip=3.0, ema=(0.9, 1.0)),
    global_batch=4,
    seed=7,
    precision="fp32",  # bf16 depends on the processor
)


def pixels(position: int) -> np.ndarray:
    """Two uint8 crops, each with slopes, edges and a texture of its own."""
    view, row, column = np.ogrid[:2, :SIZE, :SIZE]
    slope = 3 * row + 2 * column + 29 * position + 41 * view
    texture = (row * column + 5 * (position % 7) * row + 11 * view * column) % 61
    return ((slope + texture) % 256).astype(np.uint8)


def boxes(position: int) -> np.ndarray:
    """Two boxes of different sizes, as if cut from an image of 300 x 400 pixels."""
    first = (10 + 7 * (position % 5), 20 + 3 * (position % 4), 160 + 4 * (position % 3), 200)
    second = (60 - 5 * (position % 4), 35 + 11 * (position % 3), 200, 170 + 9 * (position % 2))
    return np.array([first, second], np.int32)


def crop_batch(positions: list[int]) -> CropBatch:
    """Crops at these positions; a negative one is padding, as `views.batch.crop_image` makes it."""
    padding = (np.zeros((2, SIZE, SIZE), np.uint8), np.tile(np.array([0, 0, 1, 1], np.int32), (2, 1)))
    rows = [(pixels(at), boxes(at)) if at >= 0 else padding for at in positions]
    weights = np.array([float(at >= 0) for at in positions], np.float32)
    return CropBatch(
        np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]), np.array(positions), weights
    )


def fill(module: nn.Module, salt: str) -> None:
    """Weights of about the size that keeps the variance of what passes; each tensor depends on its name alone."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:  # fixed positions
            continue
        draws = np.random.RandomState(zlib.crc32(f"{salt} {name}".encode())).uniform(-1.0, 1.0, tuple(parameter.shape))
        if name.endswith("mask_token"):
            values = draws
        elif parameter.ndim > 1:
            values = draws * math.sqrt(3.0 / math.prod(parameter.shape[1:]))
        else:
            values = 0.1 * draws + (1.0 if name.endswith("weight") else 0.0)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values))


def world_model(science: Science) -> WorldModel:
    """Encoder and predictor of these settings, with the weights of `fill`."""
    world = WorldModel(science.model, science.objective, build_encoder(science.model, 0))
    suit_device(world, CPU)
    fill(world, "world")
    return world


def matrix(rows: int, columns: int, seed: int) -> np.ndarray:
    """float32 features whose columns have falling sizes."""
    draws = np.random.RandomState(seed).uniform(-1.0, 1.0, (rows, columns))
    return (draws / (1.0 + np.arange(columns))).astype(np.float32)
