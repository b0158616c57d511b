"""A storage that is away for a while costs a run time, not work: what it failed at is tried again."""

import math
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

from chexworld_ray.storage import StorageError

T = TypeVar("T")
LONGEST_PAUSE = 60.0  # s between two attempts


def patiently(attempt: Callable[[], T], tell: Callable[[StorageError, float], None], patience: float = math.inf) -> T:
    """What `attempt` gives. It is made again, after growing pauses, while the storage is away or a disk full.

    `tell` is called before each pause with what went wrong and the seconds of the pause.

    Raises:
        StorageError: so it is for `patience` seconds.
    """
    pause, end = 1.0, monotonic() + patience
    while True:
        try:
            return attempt()
        except StorageError as error:
            if monotonic() > end:
                raise
            tell(error, pause)
        sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
