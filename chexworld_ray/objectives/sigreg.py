"""SIGReg: pushes embeddings towards an isotropic Gaussian (Balestriero & LeCun, LeJEPA, arXiv 2511.08544).

Legend: B embeddings, D width, S slices (random directions), T points of the characteristic function.
"""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as collectives
from torch import Tensor

SLICES = 256
POINTS = 17
REACH = 5.0


def sigreg(embeddings_BD: Tensor, weights_B: Tensor, directions_DS: Tensor) -> Tensor:
    """Epps-Pulley distance of the slices of B embeddings from a standard normal, mean over slices (a scalar).

    `weights_B` is 0 on padding. The characteristic function is averaged over all workers, so the value does not
    depend on how images are spread over them; micro-batches of one worker count one by one.
    """
    points_T = torch.linspace(-REACH, REACH, POINTS, device=embeddings_BD.device)
    normal_T = torch.exp(-0.5 * points_T**2)
    directions_DS = directions_DS / directions_DS.norm(dim=0, keepdim=True)
    angles_BST = (embeddings_BD.float() @ directions_DS)[..., None] * points_T
    sums_2ST = torch.einsum("b,abst->ast", weights_B, torch.stack([angles_BST.cos(), angles_BST.sin()]))
    count = weights_B.sum()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        sums_2ST, count = collectives.all_reduce(sums_2ST), collectives.all_reduce(count)
    mean_2ST = sums_2ST / count
    error_ST = (mean_2ST[0] - normal_T) ** 2 + mean_2ST[1] ** 2
    return torch.trapezoid(error_ST * normal_T, points_T, dim=-1).mean() * count
