"""RankMe: the effective rank of a set of features (Garrido et al., ICML 2023)."""

import torch
from torch import Tensor


def rankme(features_BD: Tensor) -> float:
    """exp of the entropy of the normalised singular values of BxD features (eq. 1); between 1 and min(B, D)."""
    values = torch.linalg.svdvals(features_BD.float())
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))
