"""RankMe: the effective rank of a set of features (Garrido et al., ICML 2023), about their mean."""

import torch
from torch import Tensor


def rankme(features_BD: Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred BxD features; between 1 and min(B - 1, D).

    The paper (eq. 1) does not centre: the mean is then one more direction, most often the largest, and the value falls
    when the mean grows though the features spread as before. Rows that are not finite take no part; 0 where none is
    left, 1 where all are equal up to rounding.
    """
    finite_BD = features_BD[features_BD.isfinite().all(dim=1)].double()
    if not len(finite_BD):
        return 0.0
    values = torch.linalg.svdvals(finite_BD - finite_BD.mean(dim=0))
    rounding = torch.finfo(features_BD.dtype).eps * float(finite_BD.norm())  # else its noise has a rank, and a high one
    values = values[values > rounding]
    if not len(values):
        return 1.0
    shares = values / values.sum() + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))
