"""Counter-based random numbers as tensors: the torch twin of `chexworld_ray.hashing`.

A draw is a pure function of (seed, position in the plan, purpose, index): no generator state to save, and
nothing that depends on the number of workers. Integers and uniforms equal the numpy twin's to the last bit,
on CPU and GPU.
"""

import math

import torch
from torch import Tensor

from chexworld_ray.hashing import INCREMENT, MULTIPLIER_1, MULTIPLIER_2, Purpose


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of 64-bit integers that torch holds as signed."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _signed(INCREMENT)
    x = (x ^ _shift_right(x, 30)) * _signed(MULTIPLIER_1)
    x = (x ^ _shift_right(x, 27)) * _signed(MULTIPLIER_2)
    return x ^ _shift_right(x, 31)


def uniform(seed: int, positions_B: Tensor, purpose: Purpose, *shape: int) -> Tensor:
    """Uniform float32 in [0, 1), Bx`shape`, for B positions (int64)."""
    count = math.prod(shape)
    state = torch.zeros((), dtype=torch.int64, device=positions_B.device)
    index_C = torch.arange(count, dtype=torch.int64, device=positions_B.device)
    for key in (
        torch.full_like(state, seed),
        positions_B[:, None],
        torch.full_like(state, int(purpose)),
        index_C,
    ):
        state = _mix(state ^ key)
    return (_shift_right(state, 40).to(torch.float32) * 2**-24).reshape(-1, *shape)


def normal(seed: int, positions_B: Tensor, purpose: Purpose, *shape: int) -> Tensor:
    """Standard normal float32, Bx`shape`, by the Box-Muller transform."""
    pair = uniform(seed, positions_B, purpose, 2, *shape)
    radius = torch.sqrt(-2.0 * torch.log1p(-pair[:, 0]))
    return radius * torch.cos(2.0 * math.pi * pair[:, 1])
