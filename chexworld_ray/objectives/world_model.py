"""The world model's loss: local anatomy, global layout and domain variation in one pass.

One encoder call on all seen views, one target call on the 2B clean views, one predictor call on all
(context, query) pairs. Which tasks take part is a table (`objectives.tasks`), not a code path of its own.

Legend: B images, V = 2 views, R directions, C context streams, K context and T target tokens, N patches, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from chexworld_ray.config import ModelSettings, ObjectiveSettings
from chexworld_ray.hashing import Purpose
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.positions import grid_positions
from chexworld_ray.models.predictor import Predictor, QueryTensors
from chexworld_ray.objectives.queries import Queries, by_view, make_queries, pick_views
from chexworld_ray.objectives.sigreg import SLICES, Sums, over_workers, sigreg, sums_of, waves_of
from chexworld_ray.objectives.tasks import TASKS
from chexworld_ray.views.batch import WorldModelBatch
from chexworld_ray.views.random import normal


class Losses(NamedTuple):
    """Per-image losses. `parts_LB`: one row for each of `WorldModel.parts`. The features have no gradient."""

    total_B: Tensor
    parts_LB: Tensor
    predictions_RBTD: Tensor
    context_CBKD: Tensor


class WorldModel(nn.Module):
    """What is trained: encoder and predictor. The target encoder stands outside (it has no gradient)."""

    def __init__(self, model: ModelSettings, objective: ObjectiveSettings, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = Predictor(model)
        self.grid = model.grid
        self.objective = objective
        self.tasks = TASKS[objective.kind]
        self.streams = sorted({(direction.acted, direction.context) for direction in self.tasks.directions})
        extra = {"visible": objective.visible_weight, "sigreg": objective.sigreg_weight}
        self.extra = {name: weight for name, weight in extra.items() if weight > 0}
        self.parts = (*dict.fromkeys(direction.part for direction in self.tasks.directions), *self.extra)

    def forward(self, batch: WorldModelBatch, targets_BVND: Tensor, sums: Sums | None = None) -> Losses:
        """Loss of each image: the mean over directions of the mean square over target patches (eq. 6-7).

        `targets_BVND`: normalised tokens of the target encoder on the clean views. `sums`: what SIGReg knows of all
        micro-batches of the step (`step_sums`); None where this one is all that this worker has.
        """
        context_CBKD = self._contexts(batch)
        queries = make_queries(batch, self.tasks, self.grid, self.objective.cross_view_targets == "all")
        predictions_RBKD = self._predict(batch, context_CBKD, queries)
        asked = queries.index_RBT.shape[-1]
        predictions_RBTD = predictions_RBKD[:, :, -asked:]
        losses_RB = self._losses(predictions_RBTD, queries.index_RBT, queries.valid_RBT, targets_BVND)
        parts = {
            name: torch.stack(
                [
                    loss_B
                    for loss_B, direction in zip(losses_RB, self.tasks.directions, strict=True)
                    if direction.part == name
                ]
            ).mean(dim=0)
            for name in self.parts
            if name not in self.extra
        }
        total_B = torch.stack(list(parts.values())).sum(dim=0) if self.tasks.added else losses_RB.mean(dim=0)
        if "visible" in self.extra:
            parts["visible"] = self._visible_loss(batch, predictions_RBKD[:, :, :-asked], targets_BVND)
        if "sigreg" in self.extra:
            waves_2CBST = self._waves(batch, context_CBKD)
            sums = over_workers(sums_of(waves_2CBST, batch.weights_B)) if sums is None else sums
            parts["sigreg"] = sigreg(waves_2CBST, sums)
        for name, weight in self.extra.items():
            total_B = total_B + weight * parts[name]
        parts_LB = torch.stack([parts[name] for name in self.parts])
        return Losses(total_B, parts_LB, predictions_RBTD.detach(), context_CBKD.detach())

    def _contexts(self, batch: WorldModelBatch) -> Tensor:
        """One encoder call on the visible patches of every (view, acted or clean) that some direction starts from."""
        views = [view for _, view in self.streams]
        images = torch.cat([(batch.seen_BVHW if acted else batch.clean_BVHW)[:, view] for acted, view in self.streams])
        index, valid = (pick_views(by_view(mask), views) for mask in _context_masks(batch))
        with record_function("step/encoder"):
            tokens = self.encoder(images, index, valid)
        return tokens.view(len(views), -1, *tokens.shape[1:])

    def _predict(self, batch: WorldModelBatch, context_CBKD: Tensor, queries: Queries) -> Tensor:
        """One predictor call on all directions: RxBxTxD, or RxBx(K+T)xD where visible patches are predicted too."""
        directions = self.tasks.directions
        views = [direction.context for direction in directions]
        index, valid = (pick_views(by_view(mask), views) for mask in _context_masks(batch))
        context = torch.cat([context_CBKD[self.streams.index((d.acted, d.context))] for d in directions])
        asked = QueryTensors(
            queries.positions_RBT2.flatten(0, 1),
            queries.valid_RBT.flatten(0, 1),
            queries.scales_RB2.flatten(0, 1),
            queries.actions_RBA.flatten(0, 1),
        )
        places = grid_positions(self.grid, context.device)[index]
        with record_function("step/predictor"):
            predictions = self.predictor(context, places, valid, asked, "visible" in self.extra)
        return predictions.view(len(directions), -1, *predictions.shape[1:])

    def _losses(self, predictions_RBTD: Tensor, index_RBT: Tensor, valid_RBT: Tensor, targets_BVND: Tensor) -> Tensor:
        """Mean square over the valid patches of each direction and image, RxB."""
        wanted_RBND = torch.stack([targets_BVND[:, direction.target] for direction in self.tasks.directions])
        wanted = wanted_RBND.gather(2, index_RBT[..., None].expand(-1, -1, -1, targets_BVND.shape[-1]))
        errors_RBT = (predictions_RBTD.float() - wanted).square().mean(dim=-1)
        weights_RBT = valid_RBT.float()
        return (errors_RBT * weights_RBT).sum(dim=-1) / weights_RBT.sum(dim=-1).clamp_min(1.0)

    def _visible_loss(self, batch: WorldModelBatch, predictions_RBKD: Tensor, targets_BVND: Tensor) -> Tensor:
        """The same loss on the patches that were seen, in their own view (V-JEPA 2.1), B."""
        views = [direction.context for direction in self.tasks.directions]
        index, valid = (_stack_views(by_view(mask), views) for mask in _context_masks(batch))
        own = [number for number, d in enumerate(self.tasks.directions) if d.context == d.target]
        return self._losses(predictions_RBKD, index, valid, targets_BVND)[own].mean(dim=0)

    def step_sums(self, batch: WorldModelBatch) -> Sums:
        """What SIGReg has to know of one of several micro-batches before any of them is learned from."""
        return sums_of(self._waves(batch, self._contexts(batch)), batch.weights_B)

    def _waves(self, batch: WorldModelBatch, context_CBKD: Tensor) -> Tensor:
        """SIGReg's waves of the mean context token of every stream; its directions are those of the step."""
        views = [view for _, view in self.streams]
        weights_CBK = _stack_views(by_view(batch.masks.context_valid_MC), views).float()
        pooled_CBD = (context_CBKD.float() * weights_CBK[..., None]).sum(dim=2) / weights_CBK.sum(dim=2)[..., None]
        directions_DS = normal(0, batch.step_1, Purpose.SIGREG, pooled_CBD.shape[-1], SLICES)[0]
        return waves_of(pooled_CBD, directions_DS)


def _context_masks(batch: WorldModelBatch) -> tuple[Tensor, Tensor]:
    return batch.masks.context_index_MC, batch.masks.context_valid_MC


def _stack_views(values_BV: Tensor, views: list[int]) -> Tensor:
    return torch.stack([values_BV[:, view] for view in views])


@torch.no_grad()
def normalised_targets(target_encoder: Encoder, batch: WorldModelBatch) -> Tensor:
    """BxVxNxD float32: the target encoder on whole clean views, LayerNormed without affine (eps 1e-5)."""
    count, views = batch.clean_BVHW.shape[:2]
    tokens = target_encoder(batch.clean_BVHW.flatten(0, 1)).float()
    return F.layer_norm(tokens, tokens.shape[-1:]).view(count, views, *tokens.shape[1:])


def targets_and_losses(
    target_encoder: Encoder, model: nn.Module, batch: WorldModelBatch, sums: Sums | None = None
) -> tuple[Tensor, Losses]:
    """Targets and what the world model makes of them: all that a step computes before its backward pass."""
    with record_function("step/target"):
        targets_BVND = normalised_targets(target_encoder, batch)
    return targets_BVND, model(batch, targets_BVND, sums)
