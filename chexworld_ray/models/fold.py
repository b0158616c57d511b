"""Patch embeddings between three colour channels and one grey one, and between pixel scales: exact, both ways.

A grey image carried as three equal channels, each normalised by its own mean and std, passes through a patch embedding
as one channel does through the folded one (WORLD_MODEL): W' = Σ_c W_c/std_c, b' = b − Σ_c (mean_c/std_c)·Σ_xy W_c[x,y].

Legend: D width, C channels, P patch side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor

from chexworld_ray.models.positions import grid_positions, sincos

IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
WEIGHT, BIAS, POSITIONS = "patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"


class PatchEmbedding(NamedTuple):
    """A convolution over patches: DxCxPxP and D."""

    weight: Tensor
    bias: Tensor


def fold(colour: PatchEmbedding, mean: Sequence[float], std: Sequence[float]) -> PatchEmbedding:
    """One channel on [0, 1] pixels, Dx1xPxP, from three on pixels normalised by `mean` and `std`."""
    scale, shift = _constants(colour.weight, mean, std)
    weight = (colour.weight.double() * scale).sum(dim=1, keepdim=True)
    bias = colour.bias.double() - (colour.weight.double() * shift).sum(dim=(1, 2, 3))
    return PatchEmbedding(weight.to(colour.weight.dtype), bias.to(colour.bias.dtype))


def unfold(grey: PatchEmbedding, mean: Sequence[float], std: Sequence[float]) -> PatchEmbedding:
    """Three channels, Dx3xPxP, that do to grey images normalised by `mean`, `std` what one does to [0, 1] pixels.

    W_c = W'·std_c/3, b = b' + Σ_c (mean_c/std_c)·Σ_xy W_c[x,y].
    """
    scale, shift = _constants(grey.weight, mean, std)
    weight = grey.weight.double() / scale / len(mean)
    bias = grey.bias.double() + (weight * shift).sum(dim=(1, 2, 3))
    return PatchEmbedding(weight.to(grey.weight.dtype), bias.to(grey.bias.dtype))


def rescale(grey: PatchEmbedding, old: tuple[float, float], new: tuple[float, float]) -> PatchEmbedding:
    """The same function of [0, 1] pixels when they are normalised by the (mean, std) of `new` instead of `old`."""
    total_D = grey.weight.double().sum(dim=(1, 2, 3))
    weight = grey.weight.double() * (new[1] / old[1])
    bias = grey.bias.double() + total_D * ((new[0] - old[0]) / old[1])
    return PatchEmbedding(weight.to(grey.weight.dtype), bias.to(grey.bias.dtype))


def colour_gradient(grey: PatchEmbedding, mean: Sequence[float], std: Sequence[float]) -> PatchEmbedding:
    """Gradient with respect to the colour embedding from that with respect to its folded one (chain rule of `fold`)."""
    scale, shift = _constants(grey.weight, mean, std)
    weight = grey.weight.double() * scale - grey.bias.double()[:, None, None, None] * shift
    return PatchEmbedding(weight, grey.bias.double())


def resample(tensors: dict[str, Tensor], grid: int, patch: int, swapped: bool) -> dict[str, Tensor]:
    """Encoder tensors (timm's keys) for another grid and patch side.

    Patches are resampled by the pseudo-inverse of bilinear resizing (FlexiViT, Beyer et al., CVPR 2023); positions are
    evaluated where the new patches lie between the old ones.
    """
    old_grid = round(tensors[POSITIONS].shape[1] ** 0.5)
    changed = dict(tensors)
    if patch != tensors[WEIGHT].shape[-1]:
        changed[WEIGHT] = resample_patch_embed(tensors[WEIGHT], [patch, patch], antialias=True)
    if grid != old_grid:
        places = (grid_positions(grid) + 0.5) * (old_grid / grid) - 0.5
        width = tensors[POSITIONS].shape[-1]
        changed[POSITIONS] = sincos(places.flip(-1) if swapped else places, width)[None]
    return changed


def _constants(weight: Tensor, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    scale = 1.0 / torch.tensor(std, dtype=torch.float64, device=weight.device)
    shift = torch.tensor(mean, dtype=torch.float64, device=weight.device) * scale
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)
