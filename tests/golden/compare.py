"""The file of golden numbers: how it is written, read and compared with what the code computes now."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from golden import data, learning
from golden.inputs import Group

Value: TypeAlias = int | float | str

FILE = Path(__file__).with_name("numbers.json")
RENEW = "python tests/golden/write.py"
SHOWN = 20
EXACT = 1e-7  # of floats: the file has 8 digits


class Golden(NamedTuple):
    """A group of numbers, and by how much (relative) a float may differ. Integers and texts may not."""

    compute: Callable[[], Group]
    tolerance: float


# Largest relative differences between float32 and float64, 1 and 2 threads, ATen without vectors and with AVX2, and
# MKL and oneDNN held to SSE: draws 3e-7, metrics 4e-7, losses 2e-7, gradients 3e-7, shares 1e-7, curve 1e-6 (AdamW
# divides by roots of small second moments), targets 1e-6. Allowed is ten times that or more, for the processors and
# versions of torch that were not at hand. Positions 8e-6: there two numbers are small differences of larger ones.
GROUPS = {
    "plan": Golden(data.plan_numbers, EXACT),
    "crops": Golden(data.crop_numbers, EXACT),
    "draws": Golden(data.draw_numbers, 1e-5),
    "masks": Golden(data.mask_numbers, EXACT),
    "positions": Golden(data.position_numbers, 2e-5),
    "schedules": Golden(data.schedule_numbers, EXACT),
    "metrics": Golden(data.metric_numbers, 1e-5),
    "targets": Golden(learning.target_numbers, 2e-5),
    "losses": Golden(learning.loss_numbers, 1e-5),
    "gradients": Golden(learning.gradient_numbers, 1e-5),
    "start": Golden(learning.start_numbers, EXACT),
    # of torch's generator, which may change: 5 sampling errors of 6,144 weights, of which there are 0.9 % each
    "initial weights": Golden(learning.initial_numbers, 0.05),
    "shares": Golden(learning.share_numbers, 1e-5),
    "curve": Golden(learning.curve_numbers, 2e-5),
}


def read() -> dict[str, Group]:
    """Groups as they stand in the file."""
    return json.loads(FILE.read_text())


def text_of(groups: dict[str, Group]) -> str:
    """JSON with one line for each list of numbers, and one for each text, so that masks are pictures."""
    written = [f"{_quoted(name)}: {{\n{_block(group)}\n}}" for name, group in groups.items()]
    return "{\n" + ",\n".join(written) + "\n}\n"


def _block(group: Group) -> str:
    return ",\n".join(f"  {_quoted(name)}: {_list(list(values))}" for name, values in group.items())


def _list(values: list[Value]) -> str:
    written = [_quoted(float(f"{value:.8g}") if isinstance(value, float) else value) for value in values]
    if isinstance(values[0], str):
        return "[\n    " + ",\n    ".join(written) + "\n  ]"
    return "[" + ", ".join(written) + "]"


def _quoted(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)


def changes(before: Group, now: Group, tolerance: float) -> Iterator[str]:
    """A line for each number that changed, came or went."""
    for name in before | now:
        if name not in now or name not in before:
            yield f"{name}: {'is not computed any more' if name not in now else 'is not in the file'}"
        elif len(before[name]) != len(now[name]):
            yield f"{name}: {len(before[name])} numbers in the file, {len(now[name])} now"
        else:
            for at, (old, new) in enumerate(zip(before[name], now[name], strict=True)):
                if not _same(old, new, tolerance):
                    yield f"{name}, number {at}: {_told(old, new, tolerance)}"


def _same(old: Value, new: Value, tolerance: float) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=tolerance, abs_tol=1e-12)
    return old == new


def _told(old: Value, new: Value, tolerance: float) -> str:
    if isinstance(old, float) and isinstance(new, float):
        part = f"{new / old - 1.0:+.2e} of it" if old else "from nothing"
        return f"{old:.8g} -> {new:.8g} ({part}; allowed are {tolerance:.0e})"
    return f"{old} -> {new}"


def report(name: str, lines: list[str]) -> str:
    """What a failed comparison says."""
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join(
        [
            f"{len(lines)} golden numbers of {name!r} are not those of {FILE.name}:",
            *lines[:SHOWN],
            *more,
            f"If the mathematics of training should change, renew them all: {RENEW}",
            "Then say in the commit which changed and why. If it should not, this is a fault.",
        ]
    )
