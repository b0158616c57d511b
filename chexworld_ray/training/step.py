"""One optimizer step. Everything else in this package exists to call this function.

    batch → target encoder (2B clean views, no gradient) → encoder (2B seen views, context tokens)
          → predictor (all directions) → loss → backward → clip → AdamW → EMA

A step covers one global batch. A worker sees its share of it, cut into micro-batches whose gradients add up.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_
from torch.profiler import record_function

from chexworld_ray.config import Science
from chexworld_ray.models.device import Precision, autocast
from chexworld_ray.objectives.sigreg import Sums, over_workers
from chexworld_ray.objectives.world_model import Losses
from chexworld_ray.training.ema import update_target
from chexworld_ray.training.parallel import exchange_gradients
from chexworld_ray.training.schedules import ema_momentum, learning_rate
from chexworld_ray.training.state import TrainState
from chexworld_ray.views.batch import WorldModelBatch


class StepReport(NamedTuple):
    """Device tensors: nothing here has been waited for. Sums are over the worker's own images of weight 1."""

    sums: Tensor
    """loss, then each part of the loss (`WorldModel.parts`), then images."""
    grad_norm: Tensor
    skipped: Tensor
    """1 where the gradient was not finite and nothing was changed, else 0."""
    features_2BD: Tensor
    """Means over tokens of the first view's targets and of the first direction's predictions, of the worker's share."""
    weights_B: Tensor
    """1, or 0 on padding."""


def train_step(state: TrainState, batches: Sequence[WorldModelBatch], science: Science, workers: int) -> StepReport:
    """Learn from one global batch, of which `batches` are this worker's share, and move the position on.

    The loss of a worker is workers·Σ(own images)/global_batch, so that DistributedDataParallel's mean over workers
    is the mean over the global batch, whatever their number. A step whose gradient is not finite changes nothing
    and is counted in `state.skipped`.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(science.optim, state.position, state.total)
    state.optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(len(state.model.parts) + 2, device=state.device)
    pooled: list[Tensor] = []
    across = _sums_across(state, batches, science.precision)
    for number, batch in enumerate(batches):
        exchange_gradients(state, now=number == len(batches) - 1)
        with record_function("step/forward"):
            targets, losses = _forward(state, batch, across, science.precision)
        with record_function("step/backward"):
            ((losses.total_B * batch.weights_B).sum() * (workers / science.global_batch)).backward()
        sums += _sums(losses, batch.weights_B)
        pooled.append(torch.stack([targets[:, 0].mean(dim=1), losses.predictions_RBTD[0].float().mean(dim=1)]))
    with record_function("step/optimizer"):
        grad_norm = clip_grad_norm_(state.model.parameters(), science.optim.clip)
        grad_norm = grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm
        skipped = _update(state, grad_norm)
    with record_function("step/ema"):
        update_target(state.target, state.model.encoder, ema_momentum(science.optim, state.position, state.total))
    state.position += science.global_batch
    weights_B = torch.cat([batch.weights_B for batch in batches])
    return StepReport(sums, grad_norm.detach(), skipped, torch.cat(pooled, dim=1), weights_B)


def _sums_across(state: TrainState, batches: Sequence[WorldModelBatch], precision: Precision) -> Sums | None:
    """What SIGReg needs of all micro-batches and workers, at the price of another pass of the encoder. None where there
    is no SIGReg, or one micro-batch, which finds out by itself.
    """
    if len(batches) == 1 or "sigreg" not in state.model.extra:
        return None
    with record_function("step/sigreg"), torch.no_grad(), autocast(state.device, precision):
        parts = [state.model.step_sums(batch) for batch in batches]
    waves, weights = zip(*parts, strict=True)
    return over_workers(Sums(torch.stack(waves).sum(dim=0), torch.stack(weights).sum()))


def _forward(
    state: TrainState, batch: WorldModelBatch, across: Sums | None, precision: Precision
) -> tuple[Tensor, Losses]:
    with autocast(state.device, precision):
        return state.compute(state.target, state.forward, batch, across)


def _update(state: TrainState, grad_norm: Tensor) -> Tensor:
    """AdamW, unless the gradient is not finite: decided on the device, without waiting for it. 1 where skipped."""
    bad = (~torch.isfinite(grad_norm)).float()
    state.optimizer.found_inf = bad  # type: ignore[attr-defined]  # fused AdamW skips the step where this is 1
    state.optimizer.grad_scale = None  # type: ignore[attr-defined]
    state.optimizer.step()
    state.skipped += bad
    state.skipped_in_row = (state.skipped_in_row + 1.0) * bad
    return bad


def _sums(losses: Losses, weights_B: Tensor) -> Tensor:
    parts_L = (losses.parts_LB * weights_B).sum(dim=1)
    return torch.cat([(losses.total_B * weights_B).sum()[None], parts_L, weights_B.sum()[None]]).detach()
