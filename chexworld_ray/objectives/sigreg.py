"""SIGReg: pushes embeddings towards an isotropic Gaussian (Balestriero & LeCun, LeJEPA, arXiv 2511.08544).

It is a distance of the characteristic function of *all* images of a step, which workers and micro-batches hold in
parts. Of each part the sums of cosines and sines are taken and added up; what an image adds to the distance, and so
its gradient, is then known to whoever holds it (the chain rule through the sums).

Legend: C context streams, B images, D width, S slices (random directions), T points of the characteristic function.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

SLICES = 256
POINTS = 17
REACH = 5.0


class Sums(NamedTuple):
    """Cosines and sines of embeddings, 2xSxT, summed with their weights; and the sum of these weights, a scalar."""

    waves_2ST: Tensor
    weight: Tensor


def waves_of(embeddings_CBD: Tensor, directions_DS: Tensor) -> Tensor:
    """Cosine and sine of each slice at each point, 2xCxBxSxT."""
    directions_DS = directions_DS / directions_DS.norm(dim=0, keepdim=True)
    angles_CBST = (embeddings_CBD.float() @ directions_DS)[..., None] * _points(embeddings_CBD.device)
    return torch.stack([angles_CBST.cos(), angles_CBST.sin()])


def sums_of(waves_2CBST: Tensor, weights_B: Tensor) -> Sums:
    """Of what one micro-batch of one worker holds; `weights_B` is 0 on padding."""
    streams = waves_2CBST.shape[1]
    return Sums(torch.einsum("b,acbst->ast", weights_B, waves_2CBST.detach()), weights_B.sum() * streams)


@torch.no_grad()
def over_workers(sums: Sums) -> Sums:
    """Added up over all workers, each of which must call it."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return sums
    waves_2ST, weight = sums.waves_2ST.clone(), sums.weight.clone()
    dist.all_reduce(waves_2ST)
    dist.all_reduce(weight)
    return Sums(waves_2ST, weight)


def sigreg(waves_2CBST: Tensor, total: Sums) -> Tensor:
    """Epps-Pulley distance of all embeddings' slices from a standard normal, mean over slices: its value for each of B
    images, whose mean over the images of `total` has the gradient of that distance.

    `total`: over all micro-batches and workers of the step.
    """
    points_T = _points(waves_2CBST.device)
    normal_T = torch.exp(-0.5 * points_T**2)
    expected_2T = torch.stack([normal_T, torch.zeros_like(normal_T)])
    off_2ST = total.waves_2ST / total.weight - expected_2T[:, None]
    weight_T = normal_T * _trapezoid(points_T) / total.waves_2ST.shape[1]
    value = (off_2ST.square() * weight_T).sum() * total.weight
    own_B = torch.einsum("acbst,ast->b", waves_2CBST, 2.0 * off_2ST * weight_T)  # its derivative by the sums
    images = total.weight / waves_2CBST.shape[1]
    return value + images * (own_B - own_B.detach())


def _points(device: torch.device) -> Tensor:
    return torch.linspace(-REACH, REACH, POINTS, device=device)


def _trapezoid(points_T: Tensor) -> Tensor:
    """Weights of the points in the trapezoid rule."""
    step = 2.0 * REACH / (POINTS - 1)
    return torch.where(points_T.abs() < REACH, step, step / 2)
