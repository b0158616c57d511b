"""Multi-block masks with fixed token budgets and no spatial bias, one batched call on the device.

Each image and view draws its own blocks. Surplus tokens are dropped by uniform choice. A shortfall of
context is filled from non-target patches outside the context block, then by padding that attention does not
see; a shortfall of targets is padding of weight 0.

Legend: M masks (images x views), N patches of the GxG grid, C context and T target budgets.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from chexworld_ray.config import MaskSettings
from chexworld_ray.hashing import Purpose
from chexworld_ray.views.random import uniform


@dataclass(frozen=True)
class Masks:
    """Token choices of M views. `context_valid` and `target_valid` are False on padding."""

    context_index_MC: Tensor
    context_valid_MC: Tensor
    target_index_MT: Tensor
    target_valid_MT: Tensor


def sample_masks(seed: int, positions_B: Tensor, views: int, grid: int, settings: MaskSettings) -> Masks:
    """Masks for B images x `views` views (M = B·views, views of an image adjacent)."""
    context_budget, target_budget = settings.budgets(grid)
    draws_MK4 = uniform(seed, positions_B, Purpose.BLOCKS, views, settings.target_blocks + 1, 4).flatten(0, 1)
    target_MN, block_MN = _blocks(draws_MK4, settings, grid)
    choice_MN = uniform(seed, positions_B, Purpose.TOKEN_CHOICE, views, grid * grid).flatten(0, 1)
    target_MN = _leave_one(target_MN, choice_MN)
    # a rank of 0 is context first, then 1; targets are taken from 2. One draw serves both: no token is asked twice
    rank_MN = torch.where(target_MN, 2, torch.where(block_MN, 0, 1))
    key_MN = rank_MN + choice_MN
    context_index = key_MN.topk(context_budget, dim=1, largest=False, sorted=False).indices
    target_index = key_MN.topk(target_budget, dim=1, sorted=False).indices
    return Masks(
        context_index,
        rank_MN.gather(1, context_index) < 2,
        target_index,
        target_MN.gather(1, target_index),
    )


def _leave_one(target_MN: Tensor, choice_MN: Tensor) -> Tensor:
    """On small grids blocks may cover every patch: then one is no target, for without context nothing is predicted."""
    spared_M1 = choice_MN.argmin(dim=1, keepdim=True)
    covered_M1 = target_MN.all(dim=1, keepdim=True)
    return target_MN.scatter(1, spared_M1, target_MN.gather(1, spared_M1) & ~covered_M1)


def _blocks(draws_MK4: Tensor, settings: MaskSettings, grid: int) -> tuple[Tensor, Tensor]:
    """Union of the target blocks, and the context block (the last): boolean MxN each.

    Of the four draws: area, aspect, row, column.
    """
    shapes = [(settings.target_scale, settings.target_aspect)] * settings.target_blocks
    shapes.append((settings.context_scale, (1.0, 1.0)))
    bounds_K4 = torch.tensor([[*scale, *map(math.log, aspect)] for scale, aspect in shapes], device=draws_MK4.device)
    area = (bounds_K4[:, 0] + draws_MK4[..., 0] * (bounds_K4[:, 1] - bounds_K4[:, 0])) * grid * grid
    ratio = torch.exp(bounds_K4[:, 2] + draws_MK4[..., 1] * (bounds_K4[:, 3] - bounds_K4[:, 2]))
    size_MK2 = torch.stack([area * ratio, area / ratio], dim=-1).sqrt().round().clamp(1, grid)
    hang_MK2 = torch.zeros_like(size_MK2)
    if settings.overhang:
        hang_MK2[:, :-1] = size_MK2[:, :-1] - 1  # as far over the border as leaves one patch on the grid
    near_MK2 = torch.floor(draws_MK4[..., 2:] * (grid - size_MK2 + 2 * hang_MK2 + 1)) - hang_MK2
    line_G = torch.arange(grid, device=draws_MK4.device)
    inside_MK2G = (line_G >= near_MK2[..., None]) & (line_G < (near_MK2 + size_MK2)[..., None])
    rows_MKG, columns_MKG = inside_MK2G.float().unbind(dim=2)
    target_MGG = torch.bmm(rows_MKG[:, :-1].transpose(1, 2), columns_MKG[:, :-1])  # how many blocks cover a patch
    context_MGG = torch.bmm(rows_MKG[:, -1:].transpose(1, 2), columns_MKG[:, -1:])
    return target_MGG.flatten(1) > 0.5, context_MGG.flatten(1) > 0.5
