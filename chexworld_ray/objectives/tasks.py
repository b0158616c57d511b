"""Which (context, target) pairs a row of the paper's Table 3 predicts: a table, not code paths of their own."""

from dataclasses import dataclass
from typing import NamedTuple


class Direction(NamedTuple):
    """One pair: what the encoder sees, and what is predicted from it."""

    context: int
    """View whose visible patches are the context."""
    target: int
    """View whose clean features are predicted."""
    acted: bool
    """The context is the acted-on (seen) view, else the clean one."""
    part: str
    """Name of the loss that this direction belongs to."""


@dataclass(frozen=True)
class Tasks:
    """A row of Table 3."""

    directions: tuple[Direction, ...]
    tell_delta: bool = True
    """Queries carry where the target lies in the context's view."""
    tell_action: bool = True
    """The predictor is told the action."""
    added: bool = False
    """Losses of the parts are added, not averaged over directions."""


def _pairs(acted: bool, *, cross: bool) -> tuple[Direction, ...]:
    same = tuple(Direction(view, view, acted, "local") for view in (0, 1))
    return same + (tuple(Direction(view, 1 - view, acted, "global") for view in (0, 1)) if cross else ())


# the domain task alone: the clean features of the very patches that are seen, acted on
_DOMAIN = tuple(Direction(view, view, True, "domain") for view in (0, 1))

TASKS: dict[str, Tasks] = {
    "chexworld": Tasks(_pairs(True, cross=True)),
    "local": Tasks(_pairs(False, cross=False)),
    "local_global": Tasks(_pairs(False, cross=True)),
    "local_domain": Tasks(_pairs(True, cross=False)),
    "naive_sum": Tasks(_pairs(False, cross=True) + _DOMAIN, added=True),
    "no_delta": Tasks(_pairs(True, cross=True), tell_delta=False),
    "no_action": Tasks(_pairs(True, cross=True), tell_action=False),
}
