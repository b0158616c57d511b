"""The world model's loss: local anatomy, global layout and domain variation in one pass.

One encoder call on the 2B seen views, one target call on the 2B clean views, one predictor call on all
(context, query) pairs. Which tasks take part is a table, not a code path of its own.

Legend: B images, V = 2 views, R directions (4, or 2 without the global task), K context and T target tokens, D width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexworld_ray.config import ModelSettings, ObjectiveSettings
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.positions import grid_positions
from chexworld_ray.models.predictor import Predictor
from chexworld_ray.views.actions import IDENTITY
from chexworld_ray.views.batch import WorldModelBatch


@dataclass(frozen=True)
class Tasks:
    """What a row of the paper's Table 3 switches on."""

    cross_view: bool = True
    domain: bool = True
    tell_delta: bool = True
    tell_action: bool = True


TASKS: dict[str, Tasks] = {
    "chexworld": Tasks(),
    "local": Tasks(cross_view=False, domain=False),
    "local_global": Tasks(domain=False),
    "local_domain": Tasks(cross_view=False),
    "no_delta": Tasks(tell_delta=False),
    "no_action": Tasks(tell_action=False),
}

# (view of the context, view of the target): within each view, then across
SAME_VIEW = ((0, 0), (1, 1))
CROSS_VIEW = ((0, 1), (1, 0))


class Losses(NamedTuple):
    """Per-image losses (B); `cross_view` is None where the global task is off. `predictions` is RxBxTxD."""

    total: Tensor
    same_view: Tensor
    cross_view: Tensor | None
    predictions: Tensor


class WorldModel(nn.Module):
    """What is trained: encoder and predictor. The target encoder stands outside (it has no gradient)."""

    def __init__(self, model: ModelSettings, objective: ObjectiveSettings, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = Predictor(model)
        self.grid = model.grid
        self.tasks = TASKS[objective.kind]
        self.all_cross_view = objective.cross_view_targets == "all"
        self.directions = SAME_VIEW + (CROSS_VIEW if self.tasks.cross_view else ())

    def forward(self, batch: WorldModelBatch, targets_BVND: Tensor) -> Losses:
        """Loss of each image: the mean over directions of the mean square over target patches (eq. 6-7).

        `targets_BVND`: normalised tokens of the target encoder on the clean views.
        """
        count, views = batch.clean_BVHW.shape[:2]
        masks, tasks = batch.masks, self.tasks
        context_index_BVK = masks.context_index_MC.view(count, views, -1)
        context_valid_BVK = masks.context_valid_MC.view(count, views, -1)
        images = batch.seen_BVHW if tasks.domain else batch.clean_BVHW
        context = self.encoder(images.flatten(0, 1), masks.context_index_MC, masks.context_valid_MC)
        context_BVKD = context.view(count, views, *context.shape[1:])
        context_view = [direction[0] for direction in self.directions]
        queries = self._queries(batch)
        predictions = self.predictor(
            _pick(context_BVKD, context_view),
            grid_positions(self.grid, context.device)[_pick(context_index_BVK, context_view)],
            _pick(context_valid_BVK, context_view),
            queries.positions.flatten(0, 1),
            queries.valid.flatten(0, 1),
            _pick(self._told_actions(batch), context_view),
        )
        predictions = predictions.view(len(self.directions), count, *predictions.shape[1:])
        losses_RB = self._losses(predictions, queries, targets_BVND)
        same, cross = losses_RB[:2].mean(dim=0), losses_RB[2:].mean(dim=0) if tasks.cross_view else None
        return Losses(losses_RB.mean(dim=0), same, cross, predictions)

    def _told_actions(self, batch: WorldModelBatch) -> Tensor:
        if self.tasks.domain and self.tasks.tell_action:
            return batch.actions_BVA
        return torch.tensor(IDENTITY, device=batch.actions_BVA.device).expand_as(batch.actions_BVA)

    def _queries(self, batch: WorldModelBatch) -> "Queries":
        """Patches to predict and where they lie in the grid of the context's view."""
        count = batch.clean_BVHW.shape[0]
        index_BVT = batch.masks.target_index_MT.view(count, 2, -1)
        valid_BVT = batch.masks.target_valid_MT.view(count, 2, -1)
        if self.all_cross_view and self.tasks.cross_view:
            index_BVT, valid_BVT = _every_patch(index_BVT, valid_BVT, self.grid**2)
        delta_B12 = self.grid * batch.delta_B2[:, None]
        positions = grid_positions(self.grid, index_BVT.device)
        index, valid, where = [], [], []
        for source, view in self.directions:
            crosses = source != view
            every = crosses and self.all_cross_view
            index.append(index_BVT[:, view])
            valid.append(torch.ones_like(valid_BVT[:, view]) if every else valid_BVT[:, view])
            offset = (view - source) * delta_B12 if crosses and self.tasks.tell_delta else torch.zeros_like(delta_B12)
            where.append(positions[index_BVT[:, view]] + offset)
        return Queries(torch.stack(index), torch.stack(valid), torch.stack(where))

    def _losses(self, predictions_RBTD: Tensor, queries: "Queries", targets_BVND: Tensor) -> Tensor:
        width = targets_BVND.shape[-1]
        losses = []
        for number, (_, view) in enumerate(self.directions):
            wanted = targets_BVND[:, view].gather(1, queries.index[number][..., None].expand(-1, -1, width))
            errors_BT = (predictions_RBTD[number].float() - wanted).square().mean(dim=-1)
            weights_BT = queries.valid[number].float()
            losses.append((errors_BT * weights_BT).sum(dim=1) / weights_BT.sum(dim=1).clamp_min(1.0))
        return torch.stack(losses)


@dataclass(frozen=True)
class Queries:
    """For R directions of B images: patch index, validity and position (row, column) of each of T queries."""

    index: Tensor
    valid: Tensor
    positions: Tensor


def _pick(values_BV: Tensor, views: list[int]) -> Tensor:
    """The context's part for each direction, directions outermost: (R·B)x…"""
    return torch.cat([values_BV[:, view] for view in views])


def _every_patch(index_BVT: Tensor, valid_BVT: Tensor, patches: int) -> tuple[Tensor, Tensor]:
    """All patches as queries; `valid` stays True on the masked ones only, for the same-view directions."""
    shape = (*index_BVT.shape[:2], patches)
    chosen = torch.zeros(shape, dtype=torch.bool, device=index_BVT.device).scatter(2, index_BVT, valid_BVT)
    return torch.arange(patches, device=index_BVT.device).expand(shape), chosen


@torch.no_grad()
def normalised_targets(target_encoder: Encoder, batch: WorldModelBatch) -> Tensor:
    """BxVxNxD float32: the target encoder on whole clean views, LayerNormed without affine (eps 1e-5)."""
    count, views = batch.clean_BVHW.shape[:2]
    tokens = target_encoder(batch.clean_BVHW.flatten(0, 1)).float()
    return F.layer_norm(tokens, tokens.shape[-1:]).view(count, views, *tokens.shape[1:])
