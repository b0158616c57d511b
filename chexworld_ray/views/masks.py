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

from chexworld_ray.config import MaskSettings, Range
from chexworld_ray.views.random import Purpose, uniform


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
    blocks = settings.target_blocks
    target_draws = uniform(seed, positions_B, Purpose.TARGET_BLOCKS, views, blocks, 4).flatten(0, 1)
    context_draws = uniform(seed, positions_B, Purpose.CONTEXT_BLOCK, views, 1, 4).flatten(0, 1)
    target_MN = _block_union(target_draws, settings.target_scale, settings.target_aspect, grid)
    block_MN = _block_union(context_draws, settings.context_scale, (1.0, 1.0), grid)
    choice = uniform(seed, positions_B, Purpose.TOKEN_CHOICE, views, 2, grid * grid).flatten(0, 1)
    # a rank of 0 is taken first, then 1, then 2; within a rank the choice is uniform
    context_rank_MN = torch.where(target_MN, 2, torch.where(block_MN, 0, 1))
    target_rank_MN = torch.where(target_MN, 0, 1)
    context_index = (context_rank_MN + choice[:, 0]).topk(context_budget, dim=1, largest=False).indices
    target_index = (target_rank_MN + choice[:, 1]).topk(target_budget, dim=1, largest=False).indices
    return Masks(
        context_index,
        context_rank_MN.gather(1, context_index) < 2,
        target_index,
        target_MN.gather(1, target_index),
    )


def _block_union(draws_MK4: Tensor, scale: Range, aspect: Range, grid: int) -> Tensor:
    """Union of K blocks, boolean MxN. Of the four draws: area, aspect, row, column."""
    area = (scale[0] + draws_MK4[..., 0] * (scale[1] - scale[0])) * grid * grid
    log_aspect = math.log(aspect[0]) + draws_MK4[..., 1] * (math.log(aspect[1]) - math.log(aspect[0]))
    ratio = torch.exp(log_aspect)
    height = torch.round(torch.sqrt(area * ratio)).clamp(1, grid)
    width = torch.round(torch.sqrt(area / ratio)).clamp(1, grid)
    top = torch.floor(draws_MK4[..., 2] * (grid - height + 1))
    left = torch.floor(draws_MK4[..., 3] * (grid - width + 1))
    line_G = torch.arange(grid, device=draws_MK4.device)
    in_rows = (line_G >= top[..., None]) & (line_G < (top + height)[..., None])
    in_columns = (line_G >= left[..., None]) & (line_G < (left + width)[..., None])
    return (in_rows[..., :, None] & in_columns[..., None, :]).any(dim=1).flatten(1)
