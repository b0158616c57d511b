"""The faults of a chaos run, one method each."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ray._private.node import Node

from chexworld_ray.benchmarks.chaos import TEARS
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.chaos_cluster import Driver, Machines, Weather
from chexworld_ray.runtime.cluster import say
from chexworld_ray.runtime.drain import Member, drain
from chexworld_ray.spot import Notice
from chexworld_ray.training.checkpoint_files import ENCODER, MANIFEST, OPTIMIZER, PREFIX, position_of

STORM_SECONDS = 20.0
NOTICE_SECONDS = 10.0
LEFT_BYTES = 2**16


class Campaign:
    """What can be broken, and where to look whether it has healed."""

    def __init__(
        self,
        machines: Machines,
        driver: Driver,
        weather: Weather,
        backing: Path,
        staging: Path | None,
        chance: random.Random,
        hang_seconds: float,
    ) -> None:
        """`backing`: the folder in which the S3 server keeps the run."""
        self.machines, self.driver = machines, driver
        self._weather, self._backing, self._staging, self._chance = weather, backing, staging, chance
        self.struck = (0.0, 0)
        self._tears = list(TEARS)
        self._faults: dict[str, Callable[[], Callable[[], None]]] = {
            "worker killed": self._worker_killed,
            "machine killed": self._machine_killed,
            "machine given notice": self._machine_given_notice,
            "driver killed": self._driver_killed,
            "head restarted": self._head_restarted,
            "storage answers 503": lambda: self._storm(STORM_SECONDS, hangs=False),
            "storage hangs": lambda: self._storm(hang_seconds, hangs=True),
            "staging disk full": self._staging_full,
            "checkpoint torn": self._checkpoint_torn,
        }

    def happen(self, kind: str) -> Callable[[], None]:
        """Let it happen; returns what brings things back once the run has come through. `struck`: when, and where."""
        self._strike()
        return self._faults[kind]()

    def _strike(self) -> None:
        self.struck = (time.monotonic(), self.driver.position())

    def wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Look twice a second.

        Raises:
            UserError: it does not come true in time.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                said = self.driver.text()[-2000:]
                raise UserError(f"waited {seconds:.0f} s for {what}; the run's last words: {said}")
            time.sleep(0.5)

    def safe(self) -> int:
        """Position of the newest checkpoint with a manifest."""
        found = [position_of(file.parent.name) or 0 for file in self._backing.glob(f"{PREFIX}*/{MANIFEST}")]
        return max(found, default=0)

    def _victim(self) -> tuple[Node, int]:
        working: list[tuple[Node, int]] = []

        def found() -> bool:
            working[:] = self.machines.working()
            return bool(working)

        self.wait(found, "a training worker", 120)
        return self._chance.choice(working)

    def _worker_killed(self) -> Callable[[], None]:
        os.kill(self._victim()[1], signal.SIGKILL)
        return _nothing

    def _machine_killed(self) -> Callable[[], None]:
        self.machines.take(self._victim()[0])
        return self.machines.add

    def _machine_given_notice(self) -> Callable[[], None]:
        node = self._victim()[0]
        notice = Notice(time.time() + NOTICE_SECONDS, "chaos")
        drain(Member(self.machines.address, str(node.node_id)), notice)
        time.sleep(NOTICE_SECONDS)
        self._strike()  # until now the run went on
        self.machines.take(node)
        return self.machines.add

    def _driver_killed(self) -> Callable[[], None]:
        self.driver.kill()  # `ended` starts it again
        return _nothing

    def _head_restarted(self) -> Callable[[], None]:
        self.driver.kill()  # it lives on the head
        self.machines.restart()
        return _nothing

    def _storm(self, seconds: float, *, hangs: bool) -> Callable[[], None]:
        self._weather.storm(seconds, hangs=hangs)
        return _nothing

    def _staging_full(self) -> Callable[[], None]:
        """Where a checkpoint is unpacked at a start, so a worker goes as well; Python leaves a disk without a byte."""
        assert self._staging is not None
        filler = self._staging / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(self._staging).free - LEFT_BYTES))
        times = self._complaints()
        os.kill(self._victim()[1], signal.SIGKILL)
        self.wait(lambda: self._complaints() > times, "a word about the full disk", 120)
        filler.unlink()
        return _nothing

    def _complaints(self) -> int:
        return self.driver.text().count("can't be unpacked")

    def _checkpoint_torn(self) -> Callable[[], None]:
        """The newest one is spoilt in the store, in each of the ways in turn, and a worker goes."""
        tear = self._tears.pop(self._chance.randrange(len(self._tears))) if self._tears else "file cut"
        folder = max(self._backing.glob(f"{PREFIX}*/{MANIFEST}"), key=lambda file: file.parent.name).parent
        file = folder / OPTIMIZER
        if tear == "file cut":
            file.write_bytes(file.read_bytes()[:-100])
        elif tear == "file missing":
            file.unlink()
        elif tear == "byte flipped":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        else:
            orphan = folder.parent / f"{folder.name}.orphan"
            orphan.mkdir()
            (orphan / ENCODER).write_bytes(b"half")
        say(f"  {tear}: {folder.name}")
        os.kill(self._victim()[1], signal.SIGKILL)
        return _nothing


def _nothing() -> None:
    return
