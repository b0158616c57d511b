"""Sin-cos codes of any real-valued (row, column), in patches: one function for tokens and queries.

WORLD_MODEL: s(x) = [sin xω, cos xω], ω_c = 10000^(−c/(D/4)), c < D/4; the code of a place is [s(row), s(col)].
"""

import torch
from torch import Tensor


def sincos(positions_K2: Tensor, width: int) -> Tensor:
    """Codes ...xD (float32) of (row, column) pairs ...x2; `width` D is a multiple of 4."""
    exponents_C = torch.arange(width // 4, device=positions_K2.device, dtype=torch.float64) / (width / 4)
    frequencies_C = (10000.0**-exponents_C).to(torch.float32)
    angles = positions_K2[..., None] * frequencies_C  # ... x 2 x C
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def grid_positions(grid: int, device: torch.device | None = None) -> Tensor:
    """(row, column) of each of the grid·grid patches, Nx2 float32, row by row."""
    line_G = torch.arange(grid, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(line_G, line_G, indexing="ij"), dim=-1).reshape(-1, 2)
