"""How the step is spread over workers and compiled: DDP or FSDP2, activation checkpointing, torch.compile.

Nothing here changes what is computed. Checkpoints hold whole tensors, so that any way reads what any other wrote.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from chexworld_ray.config import OptimSettings, Runtime
from chexworld_ray.training.state import TrainState, make_optimizer


def prepare(state: TrainState, runtime: Runtime, optim: OptimSettings, workers: int) -> None:
    """Make a fresh state ready for `workers` processes; call it before weights are loaded."""
    state.model.encoder.checkpointed = runtime.activation_checkpointing
    state.model.predictor.checkpointed = runtime.activation_checkpointing
    if workers > 1 and runtime.sharding == "fsdp":
        _shard(state, workers)
        state.optimizer = make_optimizer(state.model, optim)
    elif workers > 1:
        state.forward = DistributedDataParallel(state.model, gradient_as_bucket_view=True, broadcast_buffers=False)
    if runtime.compile:
        state.compute = torch.compile(state.compute, dynamic=False)


def _shard(state: TrainState, workers: int) -> None:
    mesh = init_device_mesh(state.device.type, (workers,))
    for block in (*state.model.encoder.vit.blocks, *state.model.predictor.blocks, *state.target.vit.blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(state.model, mesh=mesh)
    register_fsdp_forward_method(state.model, "step_sums")
    fully_shard(state.target, mesh=mesh, reshard_after_forward=True)  # it has no backward pass that would do it


def exchange_gradients(state: TrainState, *, now: bool) -> None:
    """Whether the next backward pass exchanges gradients; the last micro-batch of a step does."""
    if isinstance(state.model, FSDPModule):
        state.model.set_requires_gradient_sync(now)
    elif isinstance(state.forward, DistributedDataParallel):
        state.forward.require_backward_grad_sync = now


def whole(tensor: Tensor) -> Tensor:
    """A copy of a tensor with all its shards, detached, on the CPU; every worker must ask for it."""
    complete = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return complete.detach().to("cpu", copy=True).contiguous()


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """State dict of whole tensors."""
    return {name: whole(value) for name, value in module.state_dict().items()}


def load_whole(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put whole tensors into a module that may be sharded; names and shapes must be its own."""
    mine = module.state_dict()
    # each is scattered by all workers together, and a file's bytes may name them in another order to each
    module.load_state_dict({name: _like(tensors[name], mine.get(name)) for name in sorted(tensors)})


def whole_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of an optimizer in whole tensors."""
    record = optimizer.state_dict()
    record["state"] = {
        number: {key: whole(value) if isinstance(value, Tensor) else value for key, value in entry.items()}
        for number, entry in record["state"].items()
    }
    return record


def load_whole_optimizer(optimizer: torch.optim.Optimizer, record: dict[str, Any]) -> None:
    """Put a whole state into an optimizer whose parameters may be sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {
            key: _like(value, parameters[number]) if isinstance(value, Tensor) and value.ndim else value
            for key, value in entry.items()
        }
        for number, entry in record["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": record["param_groups"]})


def _like(value: Tensor, mine: Tensor | None) -> Tensor:
    if isinstance(mine, DTensor):
        return distribute_tensor(value.to(mine.device), mine.device_mesh, mine.placements)
    return value
