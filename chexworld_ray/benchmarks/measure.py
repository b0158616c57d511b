"""Timing, memory and the machine. Times are the best of several repeats: on a shared machine noise only adds."""

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def best_seconds(action: Callable[[], Any], repeats: int, device: torch.device | None = None) -> float:
    """Shortest of `repeats` runs (s), after one that is not counted; waits for the device."""
    action()
    wait(device)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


def wait(device: torch.device | None) -> None:
    """Until the device has done what it was given."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """Name of the processor or GPU that did the work, cores and threads, versions."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return {
        "cpu": names[0].strip() if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_PEAK.exists():
        _CLEAR_PEAK.write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """Peak memory since `reset_peak`: of the GPU's allocator, or of this process; None where it can't be told."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def memory_bytes(device: torch.device) -> int | None:
    """Memory in use now: of the GPU's allocator, or of this process."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def _status(name: str) -> int | None:
    if not _STATUS.exists():
        return None
    found = re.search(rf"{name}:\s*(\d+) kB", _STATUS.read_text())
    return int(found.group(1)) * 1024 if found else None
