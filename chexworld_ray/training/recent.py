"""What a run remembers of its newest steps beside its weights: a restart goes on with it, and no curve shows it.

Legend: I images, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

RANKME_IMAGES = 512
"""Images that RankMe and the spread are taken over; as many whole global batches as hold them."""


@dataclass
class Recent:
    """Of all workers together, whatever their number; `None` before the first step."""

    features_2ID: Tensor | None = None
    """Pooled targets and pooled predictions of the newest images."""
    since_L: Tensor | None = None
    """Since the last record: sums of the loss and its parts, images, skipped steps, steps."""

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU, by name."""
        parts = {"features": self.features_2ID, "since": self.since_L}
        return {name: part.detach().to("cpu", copy=True) for name, part in parts.items() if part is not None}


def recent_of(tensors: dict[str, Tensor], width: int, sums: int, device: torch.device) -> Recent | None:
    """What `Recent.tensors` gave; None where a stranger's do not fit features of `width` and so many `sums`."""
    features, since = tensors.get("features"), tensors.get("since")
    if set(tensors) - {"features", "since"}:
        return None
    if features is not None and (features.ndim != 3 or (len(features), features.shape[2]) != (2, width)):
        return None
    if since is not None and since.shape != (sums,):
        return None
    return Recent(*(None if part is None else part.float().to(device) for part in (features, since)))
