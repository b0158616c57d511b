"""What the predictor is asked: which patches of which view, where they lie, and what it is told of the action.

Legend: B images, V = 2 views, R directions, T queries, N patches, A actions told.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chexworld_ray.models.positions import grid_positions
from chexworld_ray.objectives.tasks import Direction, Tasks
from chexworld_ray.views.actions import IDENTITY
from chexworld_ray.views.batch import WorldModelBatch
from chexworld_ray.views.relative import SAME_PLACE


@dataclass(frozen=True)
class Queries:
    """For R directions of B images: patch, validity and position (row, column) of each of T queries.

    scales_RB2: size of the target's view over the context's; actions_RBA: what the predictor is told.
    """

    index_RBT: Tensor
    valid_RBT: Tensor
    positions_RBT2: Tensor
    scales_RB2: Tensor
    actions_RBA: Tensor


def make_queries(batch: WorldModelBatch, tasks: Tasks, grid: int, every_cross_patch: bool) -> Queries:
    """Queries of all directions, padded to the same number so that one predictor call answers them."""
    chosen = [_patches(batch, direction, grid, every_cross_patch) for direction in tasks.directions]
    most = max(index.shape[1] for index, _ in chosen)
    index_RBT = torch.stack([F.pad(index, (0, most - index.shape[1])) for index, _ in chosen])
    valid_RBT = torch.stack([F.pad(valid, (0, most - valid.shape[1])) for _, valid in chosen])
    relative_RB6 = torch.stack([_relative(batch, direction, tasks.tell_delta) for direction in tasks.directions])
    patches = grid_positions(grid, index_RBT.device)[index_RBT]
    return Queries(
        index_RBT,
        valid_RBT,
        query_positions(patches, relative_RB6, grid),
        relative_RB6[..., 2:4],
        torch.stack([_told(batch, direction, tasks) for direction in tasks.directions]),
    )


def query_positions(patches_T2: Tensor, relative_6: Tensor, grid: int) -> Tensor:
    """Patches ...xTx2 of a view, as (row, column) in the grid of another (WORLD_MODEL, `scaled`): ...xTx2.

    relative: (Δrow, Δcol, ρrow, ρcol, flip, φ), see `views.relative`.
    """
    delta_row, delta_col, rho_row, rho_col, flip, phi = relative_6[..., None, :].unbind(-1)
    row, col = patches_T2.unbind(-1)
    rows = rho_row * (row + 0.5) + grid * delta_row - 0.5
    straight = rho_col * (col + 0.5) + grid * delta_col - 0.5
    mirrored = grid * phi - rho_col * (col + 0.5) - 0.5
    return torch.stack([rows, torch.where(flip > 0.5, mirrored, straight)], dim=-1)


def _patches(batch: WorldModelBatch, direction: Direction, grid: int, every: bool) -> tuple[Tensor, Tensor]:
    """Patch index and validity, BxT each."""
    masks, view = batch.masks, direction.target
    if direction.part == "domain":
        return by_view(masks.context_index_MC)[:, view], by_view(masks.context_valid_MC)[:, view]
    index_BT = by_view(masks.target_index_MT)[:, view]
    if direction.part == "global" and every:
        index_BN = torch.arange(grid * grid, device=index_BT.device).expand(len(index_BT), -1)
        return index_BN, torch.ones_like(index_BN, dtype=torch.bool)
    return index_BT, by_view(masks.target_valid_MT)[:, view]


def by_view(values_M: Tensor) -> Tensor:
    """Values of M = 2B views, those of an image adjacent, as Bx2x…"""
    return values_M.view(-1, 2, values_M.shape[-1])


def _relative(batch: WorldModelBatch, direction: Direction, tell_delta: bool) -> Tensor:
    if direction.context == direction.target or not tell_delta:
        return torch.tensor(SAME_PLACE, device=batch.relative_BV6.device).expand(len(batch.relative_BV6), -1)
    return batch.relative_BV6[:, direction.context]


def _told(batch: WorldModelBatch, direction: Direction, tasks: Tasks) -> Tensor:
    """The context's photometric action, then whether the target is mirrored against the context, Bx6."""
    actions_BA = batch.actions_BVA[:, direction.context]
    flip_B1 = batch.relative_BV6[:, direction.context, 4:5]
    if not tasks.tell_action or not direction.acted:
        actions_BA = torch.tensor(IDENTITY, device=actions_BA.device).expand_as(actions_BA)
    if not tasks.tell_action or direction.context == direction.target:
        flip_B1 = torch.zeros_like(flip_B1)
    return torch.cat([actions_BA, flip_B1], dim=-1)


def pick_views(values_BV: Tensor, views: Sequence[int]) -> Tensor:
    """Some views of a batch, views outermost: (R·B)x…"""
    return torch.cat([values_BV[:, view] for view in views])
