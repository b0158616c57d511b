"""What every settings dataclass needs: it refuses unknown keys and impossible values."""

import math
from typing import Any

from chexworld_ray.errors import UserError

STRICT: dict[str, Any] = {"extra": "forbid"}
Range = tuple[float, float]


def check(condition: bool, message: str) -> None:
    """Refuse a setting.

    Raises:
        UserError: the condition does not hold; `message` is what it says.
    """
    if not condition:
        raise UserError(message)


def check_range(name: str, bounds: Range, low: float, high: float = math.inf) -> None:
    """Refuse bounds that do not ascend, or leave [low, high].

    Raises:
        UserError: so it is.
    """
    check(
        low <= bounds[0] <= bounds[1] <= high,
        f"{name}: {bounds} is not an ascending range in [{low}, {high}]",
    )
