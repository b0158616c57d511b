"""A seeded list of faults, and the count of what the weights of a run have seen after them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from chexworld_ray.shards.plan import Plan
from chexworld_ray.shards.reader import read_row_group

STAGING = "staging disk full"
KINDS = (
    "worker killed",
    "machine killed",
    "machine given notice",
    "driver killed",
    "head restarted",
    "storage answers 503",
    "storage hangs",
    STAGING,
    "checkpoint torn",
)
TEARS = ("file cut", "file missing", "byte flipped", "orphan folder")
GAP_IMAGES = (100, 300)


@dataclass(frozen=True)
class Fault:
    """What happens, and how many images after the run has come through the fault before."""

    kind: str
    gap: int


def schedule(seed: int, faults: int, kinds: Sequence[str]) -> list[Fault]:
    """Each of `kinds` once in an order of the seed's, then again.

    How far a run gets while a storage hangs depends on the machine: so distances count from where it is safe again.
    """
    chance = random.Random(seed)
    drawn: list[str] = []
    while len(drawn) < faults:
        more = list(kinds)
        chance.shuffle(more)
        drawn += more
    return [Fault(kind, chance.randrange(*GAP_IMAGES)) for kind in drawn[:faults]]


def count(plan: Plan, seen: pa.Table, total: int) -> dict[str, int]:
    """Positions below `total` that nobody saw, that were seen twice, and that showed another image than was due."""
    positions = seen["position"].to_numpy()
    times = np.bincount(positions, minlength=total)
    due = due_images(plan, total)
    other = sum(due[at] != name for at, name in zip(positions, seen["image_id"].to_pylist(), strict=True) if at < total)
    return {
        "lost": int((times[:total] == 0).sum()),
        "repeated": int(np.maximum(times - 1, 0).sum() + times[total:].sum()),
        "misplaced": other,
    }


def due_images(plan: Plan, total: int) -> list[str]:
    """The image of each position, from the plan alone."""
    of_group: dict[int, list[str]] = {}
    due: list[str] = []
    for window in plan.windows(0, total):
        for group in window.groups:
            if group not in of_group:
                entry = plan.groups[group]
                of_group[group] = read_row_group(entry.url, entry.index, ("image_id",))["image_id"].to_pylist()
        names = np.array([name for group in window.groups for name in of_group[group]], object)
        due += names[plan.window_order(window)].tolist()
    return due[:total]


def table(result: dict[str, Any]) -> str:
    """The faults as lines, and what they cost."""
    lines = [f"{'fault':<22}{'at':>7}{'safe again after':>18}{'done again':>12}"]
    lines += [
        f"{fault['kind']:<22}{fault['position']:>7}{fault['recovery_s']:>16.0f} s{fault['redone']:>12}"
        for fault in result["faults"]
    ]
    numbers = ", ".join(f"{result[name]} {name}" for name in ("lost", "repeated", "misplaced", "redone"))
    return "\n".join([*lines, f"{result['images']} images: {numbers}; {result['seconds']:.0f} s in all"])
