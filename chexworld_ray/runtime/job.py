"""What the driver tells its workers."""

from dataclasses import dataclass
from typing import Any

from chexworld_ray.config import RunSettings
from chexworld_ray.shards.plan import Plan


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    settings: RunSettings
    data: list[str]
    plan: Plan
    pixels: tuple[float, float]
    run_url: str
    resume_from: str | None
    total: int
    board: Any
