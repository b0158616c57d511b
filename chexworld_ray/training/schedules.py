"""Schedules as functions of the images seen: the same for any number of workers, and they end where they should."""

import math

from chexworld_ray.config import OptimSettings


def cosine(start: float, end: float, progress: float) -> float:
    """From start at progress 0 to end at 1, along half a cosine."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def learning_rate(optim: OptimSettings, seen: int, total: int) -> float:
    """Linear warm-up over the first `warmup` part of the run, then cosine to `final_lr`."""
    progress = seen / total
    if progress < optim.warmup:
        return optim.lr * progress / optim.warmup
    return cosine(optim.lr, optim.final_lr, (progress - optim.warmup) / max(1.0 - optim.warmup, 1e-12))


def ema_momentum(optim: OptimSettings, seen: int, total: int) -> float:
    """Momentum of the target encoder, cosine from the first to the second value of `ema`."""
    return cosine(optim.ema[0], optim.ema[1], seen / total)
