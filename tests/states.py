"""Training states that tell their position by every value, without a step of training."""

import torch
from torch import Tensor

from chexworld_ray.config import Science
from chexworld_ray.training.state import TrainState, start_state

CPU = torch.device("cpu")


def trained(science: Science, total: int, position: int) -> TrainState:
    """Weights, target and moments of no other position."""
    state = start_state(science, total, CPU)
    for parameter in state.model.parameters():
        parameter.grad = torch.full_like(parameter, float(position))
    state.optimizer.step()
    with torch.no_grad():
        for parameter in (*state.model.parameters(), *state.target.parameters()):
            parameter.add_(position)
    state.position, state.skipped = position, torch.tensor(position / 10)
    return state


def values(state: TrainState) -> dict[str, Tensor]:
    """Copies of all that a checkpoint must bring back."""
    found: dict[str, Tensor] = dict(state.model.named_parameters())
    found |= {f"target.{name}": value for name, value in state.target.named_parameters()}
    for number, entry in state.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{name}": value for name, value in entry.items()}
    found |= {"position": torch.tensor(state.position), "skipped": state.skipped}
    return {name: value.detach().clone() for name, value in found.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """To the last bit: a checkpoint is a copy, not a computation."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
