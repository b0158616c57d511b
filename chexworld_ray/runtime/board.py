"""A small actor between driver and workers: progress records go one way, segment iterators from rank 0 to all.

Ray Train's own broadcast is a barrier of all ranks that must not meet a `report`; the reading threads run ahead
of the step and can't promise that.
"""

import asyncio
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def new_board() -> Any:
    """A board on the driver's own machine: on another, its loss would be more than the loss of that machine."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Board.options(scheduling_strategy=here).remote()


@ray.remote(num_cpus=0)
class Board:
    """Published values are fetched by key; records are drained in order."""

    def __init__(self) -> None:
        self._values: dict[str, asyncio.Future[Any]] = {}
        self._records: list[dict[str, Any]] = []
        self._reason = ""

    def _slot(self, key: str) -> "asyncio.Future[Any]":
        return self._values.setdefault(key, asyncio.get_running_loop().create_future())

    async def publish(self, key: str, value: Any) -> None:
        """Make a value known under a key."""
        self._slot(key).set_result(value)

    async def fetch(self, key: str) -> Any:
        """The value of a key, as soon as it is published."""
        return await self._slot(key)

    async def take(self, key: str) -> Any:
        """The value of a key, as soon as it is published; it is forgotten here, so that what it holds can end."""
        value = await self._slot(key)
        del self._values[key]
        return value

    async def keep_only(self, prefix: str) -> None:
        """Forget what was published under other prefixes: for workers that are gone."""
        self._values = {key: slot for key, slot in self._values.items() if key.startswith(prefix)}

    async def push(self, record: dict[str, Any]) -> None:
        """A progress record or a message for the user."""
        self._records.append(record)

    async def drain(self) -> list[dict[str, Any]]:
        """Records since the last call."""
        records, self._records = self._records, []
        return records

    async def halt(self, reason: str) -> None:
        """The driver wants the run to end."""
        self._reason = reason

    async def halted(self) -> str:
        """Why the driver wants the run to end; empty where it does not."""
        return self._reason
