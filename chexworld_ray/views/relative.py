"""Where one view lies in the grid of the other: offset, size, mirror. Nothing is random here.

The six numbers of a relative position are (Δrow, Δcol, ρrow, ρcol, flip, φ), in units of the context's view
(WORLD_MODEL): a patch (u, v) of the target's GxG grid stands in the context's grid at
row = ρrow(u+½) + GΔrow − ½ and col = ρcol(v+½) + GΔcol − ½ or, where flip = 1, Gφ − ρcol(v+½) − ½.
"""

import torch
from torch import Tensor

SAME_PLACE = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0)


def relative_positions(boxes_BV4: Tensor, flips_BV: Tensor) -> Tensor:
    """Of two views each: where the other lies in its grid, BxVx6 float32.

    boxes: top, left, height, width in pixels of the image; flips: True where the view is mirrored left to right.
    """
    other_BV4 = boxes_BV4.flip(1).float()
    context_BV4 = boxes_BV4.float()
    other_flips_BV = flips_BV.flip(1)
    delta = (other_BV4[..., :2] - context_BV4[..., :2]) / context_BV4[..., 2:]
    rho = other_BV4[..., 2:] / context_BV4[..., 2:]
    delta_col = torch.where(flips_BV & other_flips_BV, 1.0 - rho[..., 1] - delta[..., 1], delta[..., 1])
    flip = flips_BV ^ other_flips_BV
    phi = torch.where(flips_BV, 1.0 - delta[..., 1], rho[..., 1] + delta[..., 1]) * flip
    return torch.stack([delta[..., 0], delta_col, rho[..., 0], rho[..., 1], flip.float(), phi], dim=-1)
