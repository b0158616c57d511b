"""The target encoder: an exponential moving average of the encoder."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def update_target(target: nn.Module, encoder: nn.Module, momentum: float) -> None:
    """target ← momentum·target + (1 − momentum)·encoder, all tensors in one call, each worker what it holds."""
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]  # public by name in the documentation
        [own(p) for p in target.parameters()], [own(p) for p in encoder.parameters()], 1.0 - momentum
    )


def own(tensor: Tensor) -> Tensor:
    """What this worker holds of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
