"""The target encoder: an exponential moving average of the encoder."""

import torch
from torch import nn


@torch.no_grad()
def update_target(target: nn.Module, encoder: nn.Module, momentum: float) -> None:
    """target ← momentum·target + (1 − momentum)·encoder, all tensors in one call."""
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]  # public by name in the documentation
        list(target.parameters()), list(encoder.parameters()), 1.0 - momentum
    )
