"""What a processor can do decides how it is used: else some are an order of magnitude slower."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chexworld_ray.models.device import autocast, has_bf16, precision_on

CPU = torch.device("cpu")
FAULTS = """
import resource
import torch
from chexworld_ray.models.device import keep_freed_memory
def faults():
    for _ in range(16):  # until its heap has a place for it
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
keep_freed_memory()
print(given_back, faults())
"""


def test_bf16_is_asked_of_processors_that_have_it() -> None:
    info = Path("/proc/cpuinfo")
    if not info.exists() or platform.machine() != "x86_64":
        pytest.skip("what this processor can do is not told in /proc/cpuinfo")
    assert has_bf16(CPU) == ("avx512_bf16" in info.read_text().split())


def test_products_are_in_the_precision_asked_for_or_else_in_float32() -> None:
    matrix = torch.ones(4, 4)
    for asked in ("bf16", "fp32"):
        with autocast(CPU, asked):
            found = (matrix @ matrix).dtype
        assert found == {"bf16": torch.bfloat16, "fp32": torch.float32}[precision_on(CPU, asked)]
    assert precision_on(CPU, "fp32") == "fp32"
    assert (precision_on(CPU, "bf16") == "bf16") == has_bf16(CPU)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 4
