"""Schedules as functions of the images seen: the same for any number of workers, and they end where they should."""

import math

import numpy as np

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


LARGEST_MEMORY = 0.01
"""Of a target encoder that is worth looking at."""


def target_memory(optim: OptimSettings, seen: int, total: int, global_batch: int) -> float:
    """The part of the target encoder after `seen` images that is still its start: the product of the momenta so far."""
    start, end = optim.ema
    progress = np.arange(0, seen, global_batch) / total
    return float(np.prod(end + 0.5 * (start - end) * (1.0 + np.cos(np.pi * progress))))


def memory_lines(optim: OptimSettings, total: int, global_batch: int) -> list[str]:
    """What to say of the target encoder before a run: how much of its start is left at the end, and whether that is too
    much.
    """
    memory = target_memory(optim, total, total, global_batch)
    lines = [f"target_memory {memory:.2g}: the part of the target encoder that is still its start at the end"]
    if memory > LARGEST_MEMORY:
        kept = 1.0 - sum(optim.ema) / 2  # of a step, mean over the run
        wanted = math.ceil(-math.log(LARGEST_MEMORY) / kept) if kept > 0 else "more"
        lines.append(
            f"warning: the target encoder, which is what is evaluated, is {100 * memory:.0f} % its start at the end: "
            f"{total // global_batch} steps are too few for it, {wanted} are wanted; more --epochs, or a lower "
            "--optim.ema"
        )
    return lines
