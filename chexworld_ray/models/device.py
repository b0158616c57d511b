"""What a device does well and what it has used: matrix products in bf16, memory kept for the next step, its peak."""

import ctypes
import platform
import resource
import sys
from functools import lru_cache
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]
MMAP_MAX, TRIM_THRESHOLD = -4, -1  # of glibc's malloc.h


@lru_cache
def has_bf16(device: torch.device) -> bool:
    """Whether it multiplies bf16 matrices itself. CPUs that don't emulate it, and take 13 times as long as in float32
    (BENCHMARKS.md).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() in ("aarch64", "arm64"):
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def precision_on(device: torch.device, asked: Precision) -> Precision:
    """What is asked for where the device has it, else float32: more exact, and faster there."""
    return asked if has_bf16(device) else "fp32"


def autocast(device: torch.device, asked: Precision) -> torch.autocast:
    """Matrix products in the precision asked for, where the device has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision_on(device, asked) == "bf16")


def keep_freed_memory() -> None:
    """Have the C library (glibc) keep what is freed, for this process.

    Else each large tensor is given back to the system at once, and asked for again page by page: convolutional
    networks of timm take three times as long (BENCHMARKS.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)


def peak_memory(device: torch.device) -> float:
    """The most memory (GiB) that this process has held so far: tensors on a GPU, else all of it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
