"""Golden numbers of the loss, its gradient, and eight steps of training, of a tiny model with given weights."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from golden.inputs import CPU, MODEL, PIXELS, SCIENCE, Group, crop_batch, fill, world_model
from torch import Tensor, nn

from chexworld_ray.config import ModelSettings, ObjectiveSettings, Runtime, Science
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.objectives.tasks import TASKS
from chexworld_ray.objectives.world_model import normalised_targets, targets_and_losses
from chexworld_ray.shards.reader import PADDING_POSITION, expected_positions
from chexworld_ray.training.loop import Callbacks, train
from chexworld_ray.training.state import TrainState, start_state
from chexworld_ray.training.step import train_step
from chexworld_ray.views.batch import CropBatch, WorldModelBatch, make_batch

POSITIONS = [11, 17, PADDING_POSITION]
"""One view mirrored, then both; slots of context and of targets that stay empty; blurred views and others."""
STEPS = 8
GRADIENTS = (
    "encoder.vit.patch_embed",
    "encoder.vit.blocks.0.attn",
    "encoder.vit.blocks.1.mlp",
    "encoder.vit.norm",
    "predictor.embed",
    "predictor.mask_token",
    "predictor.action_network",
    "predictor.blocks",
    "predictor.norm",
    "predictor.project",
)


def batch_at(positions: list[int], science: Science = SCIENCE) -> WorldModelBatch:
    return make_batch(crop_batch(positions), science, *PIXELS, CPU)


def target_numbers() -> Group:
    """Of a target encoder whose tokens are small, so that the normalisation's eps is seen."""
    target = build_encoder(MODEL, 0)
    fill(target, "target")
    with torch.no_grad():
        for parameter in target.vit.norm.parameters():
            parameter.mul_(0.01)
    targets = normalised_targets(target, batch_at(POSITIONS))
    return {
        "one token, clean view 1": targets[0, 0, 6, :6].tolist(),
        "one token, clean view 2": targets[1, 1, 9, :6].tolist(),
        "standard deviations": targets[:2].std(dim=(2, 3)).flatten().tolist(),
    }


def losses_of(objective: ObjectiveSettings, model: ModelSettings = MODEL) -> list[float]:
    """Loss, then each of its parts: two images each."""
    science = replace(SCIENCE, objective=objective, model=model)
    world, target = world_model(science), build_encoder(model, 0)
    fill(target, "target")
    losses = targets_and_losses(target, world, batch_at(POSITIONS, science))[1]
    return torch.cat([losses.total_B[None], losses.parts_LB])[:, :2].flatten().tolist()


def loss_numbers() -> Group:
    """Every kind of objective, each setting of it, and the models that differ in positions."""
    found: Group = {kind: losses_of(ObjectiveSettings(kind=kind)) for kind in sorted(TASKS)}  # type: ignore[arg-type]
    plain = ObjectiveSettings()
    found |= {
        "all cross-view targets": losses_of(replace(plain, cross_view_targets="all")),
        "visible patches": losses_of(replace(plain, visible_weight=0.3)),
        "SIGReg": losses_of(replace(plain, sigreg_weight=0.2)),
        "model with size code": losses_of(plain, replace(MODEL, scale_code=True)),
        "model of published positions": losses_of(plain, replace(MODEL, compat="chexworld")),
        "model of published unified positions": losses_of(plain, replace(MODEL, compat="chexworld_unified")),
    }
    return found


def gradient_numbers() -> Group:
    """Norms over some parts of the model."""
    world, target = world_model(SCIENCE), build_encoder(MODEL, 0)
    fill(target, "target")
    batch = batch_at(POSITIONS)
    losses = targets_and_losses(target, world, batch)[1]
    (losses.total_B * batch.weights_B).sum().backward()
    found: Group = {}
    for part in GRADIENTS:
        gradients = [p.grad for name, p in world.named_parameters() if name.startswith(part) and p.grad is not None]
        found[part] = [norm(gradients)]
    return found


def norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([tensor.detach().flatten() for tensor in tensors]).norm())


def start_numbers() -> Group:
    """What a run starts from: sizes, settings of the optimizer."""
    state = start_state(Science(model=MODEL), 100, CPU)
    decayed, plain = state.optimizer.param_groups
    norms = [module for module in state.model.modules() if isinstance(module, nn.LayerNorm)]
    pairs = zip(state.model.encoder.parameters(), state.target.parameters(), strict=True)
    return {
        "trained parameters": [
            sum(p.numel() for p in part.parameters() if p.requires_grad)
            for part in (state.model.encoder, state.model.predictor)
        ],
        "parameters with and without weight decay": [sum(p.numel() for p in g["params"]) for g in (decayed, plain)],
        "their weight decay": [decayed["weight_decay"], plain["weight_decay"]],
        "betas and eps of AdamW": [*decayed["betas"], decayed["eps"]],
        "learning rate, clip": [Science().optim.lr, Science().optim.clip],
        "number of layer norms": [len(norms)],
        "least and largest eps of layer norms": [min(m.eps for m in norms), max(m.eps for m in norms)],
        "target minus encoder": [norm([a.detach() - b for a, b in pairs])],
    }


def initial_numbers() -> Group:
    """Standard deviations of the weights of a seed: any generator gives them within their sampling error."""
    model = start_state(Science(model=MODEL), 100, CPU).model
    matrices = {name: p.detach().flatten() for name, p in model.named_parameters() if p.ndim > 1 and p.requires_grad}
    parts = ("encoder.vit.patch_embed", "encoder.vit.blocks", "predictor.blocks")
    return {
        part: [float(torch.cat([p for name, p in matrices.items() if name.startswith(part)]).std())] for part in parts
    }


def filled_state(total: int) -> TrainState:
    state = start_state(SCIENCE, total, CPU)
    fill(state.model, "world")
    state.target.load_state_dict(state.model.encoder.state_dict())
    return state


def moving(module: nn.Module) -> list[Tensor]:
    """Copies of the weights, but for biases of keys, which no loss depends on: AdamW makes steps of rounding errors."""
    return [p.detach().clone() for name, p in module.named_parameters() if not name.endswith("qkv.bias")]


def share_numbers() -> Group:
    """First step of each of three workers: the loss's sum, images, the gradient's norm before clipping."""
    found: Group = {}
    for rank in range(3):
        state = filled_state(STEPS * SCIENCE.global_batch)
        share = crop_batch(expected_positions(0, SCIENCE.global_batch, 3, rank, 0).tolist())
        report = train_step(state, [make_batch(share, SCIENCE, *PIXELS, CPU)], SCIENCE, 3)
        found[f"worker {rank + 1} of 3"] = [*report.sums[[0, -1]].tolist(), float(report.grad_norm)]
    return found


def curve_numbers() -> Group:
    """Eight steps of four images and a row of padding, in micro-batches of three."""
    state = filled_state(STEPS * SCIENCE.global_batch)
    parts = {"encoder": state.model.encoder, "target": state.target, "predictor": state.model.predictor}
    start = {name: moving(module) for name, module in parts.items()}
    records: list[dict[str, Any]] = []
    found: dict[str, list[float]] = {f"{name}, distance from its start": [] for name in parts}
    used: list[float] = []

    def shares() -> Iterator[CropBatch]:
        for first in range(0, state.total, SCIENCE.global_batch):
            yield crop_batch([*range(first, first + SCIENCE.global_batch), PADDING_POSITION])

    def log(record: dict[str, Any]) -> None:
        records.append(record)
        used.append(float(state.optimizer.param_groups[0]["lr"]))
        for name, module in parts.items():
            moved = [a - b for a, b in zip(moving(module), start[name], strict=True)]
            found[f"{name}, distance from its start"].append(norm(moved))

    runtime = Runtime(micro_batch=3, log_batches=1)
    callbacks = Callbacks(log, lambda state, *, urgent: None, lambda: False)
    train(state, shares(), SCIENCE, runtime, PIXELS, 1, callbacks)
    names = ("loss", "loss_local", "loss_global", "grad_norm", "lr", "ema")
    curves: Group = {name: [record[name] for record in records] for name in names}
    last = (
        "target_std_over_images",
        "prediction_std_over_images",
        "target_rankme_centred",
        "prediction_rankme_centred",
    )
    return (
        curves
        | {"learning rate of the optimizer": used}
        | found
        | {f"{name} of the last step": [records[-1][name]] for name in last}
        | {"images seen": [record["images_seen"] for record in records]}
        | {f"{name}, norm at the end": [norm(moving(module))] for name, module in parts.items()}
    )
