"""RankMe: the effective rank of a set of features (Garrido et al., ICML 2023)."""

import torch
from torch import Tensor


def rankme(features_BD: Tensor) -> float:
    """exp of the entropy of the normalised singular values of BxD features (eq. 1); between 1 and min(B, D).

    Rows that are not finite take no part; 0 where none is left.
    """
    finite_BD = features_BD[features_BD.isfinite().all(dim=1)].float()
    if not len(finite_BD):
        return 0.0
    values = torch.linalg.svdvals(finite_BD)
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))
