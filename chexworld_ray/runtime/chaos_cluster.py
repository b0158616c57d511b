"""What a chaos run is made of: a driver that is started again, a head and machines, and the storage's weather."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from ray._private.node import Node
from ray.cluster_utils import Cluster

from chexworld_ray.benchmarks.object_store import Answer
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.cluster import NO_DASHBOARD, TRAIN_SLOT
from chexworld_ray.runtime.seclusion import seclude

STORE = 200 * 2**20
MACHINES = 2


class Driver:
    """`chexworld …` in a process of its own; what it says is appended to a log."""

    def __init__(self, arguments: list[str], log: Path, env: dict[str, str]) -> None:
        self.log, self.starts = log, 0
        self._command = [sys.executable, "-m", "chexworld_ray", *arguments]
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        log.touch()

    def start(self, address: str | None) -> None:
        """Start it, on a cluster or on a private Ray."""
        env = os.environ | self._env | {"RAY_API_SERVER_ADDRESS": NO_DASHBOARD}
        env |= {"RAY_ADDRESS": address} if address is not None else {}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=env, start_new_session=True)
        self.starts += 1

    def run(self) -> None:
        """Start it and wait.

        Raises:
            UserError: it ended with an error.
        """
        self.start(None)
        assert self._process is not None
        if self._process.wait():
            raise UserError(f"{' '.join(self._command[2:])}: {self.text()[-500:]}")

    def ended(self, address: str | None) -> bool:
        """Whether it has done its work; where it gave up it is started again, as a scheduler would do it.

        Raises:
            UserError: it gave up, and there is no address to start it at.
        """
        if self._process is None or self._process.poll() is None:
            return False
        if self._process.returncode == 0:
            return True
        if address is None:
            raise UserError(f"{' '.join(self._command[2:])}: {self.text()[-500:]}")
        self.start(address)
        return False

    def kill(self) -> None:
        """Without a word, and all that it started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """For good."""
        self.kill()
        self._process = None

    def text(self) -> str:
        """All that it has said, over all its starts."""
        return self.log.read_text(errors="replace")

    def position(self) -> int:
        """Images seen, as it last said."""
        found = re.findall(r"^(?:going on from )?(\d+)(?:/\d+ images| images seen)", self.text(), re.M)
        return int(found[-1]) if found else 0

    def redone(self) -> int:
        """Images that were seen and rolled back, counted where it says that it goes on."""
        again, last = 0, 0
        for resumed, seen in re.findall(r"^(?:going on from (\d+) images seen|(\d+)/\d+ images)", self.text(), re.M):
            if resumed:
                again += max(0, last - int(resumed))
            last = int(resumed or seen)
        return again


class Machines:
    """A head without a slot, where drivers and reading live, and two machines with one slot each."""

    def __init__(self, env: dict[str, str]) -> None:
        seclude(env)  # raylets give their environment to the workers
        self._build()

    def _build(self) -> None:
        head = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Node] = []
        while len(self.nodes) < MACHINES:
            self.add()

    @property
    def address(self) -> str:
        """host:port of the head."""
        return str(self._cluster.address)

    def add(self) -> None:
        """A machine comes."""
        self.nodes.append(self._cluster.add_node(num_cpus=1, resources={TRAIN_SLOT: 1}, object_store_memory=STORE))

    def take(self, node: Node) -> None:
        """A machine goes, at once."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def restart(self) -> None:
        """The head goes, and all with it; another cluster comes."""
        self.stop()
        self._build()

    def stop(self) -> None:
        """End all."""
        self._cluster.shutdown()

    def working(self) -> list[tuple[Node, int]]:
        """Machines that train, and the process that does."""
        found = []
        for node in self.nodes:
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for process in raylet.children(recursive=True):
                try:
                    if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                        found.append((node, process.pid))
                except psutil.Error:  # it has just ended
                    continue
        return found


class Weather:
    """What the proxy before the storage does for a while: 503, or no answer until it is over."""

    def __init__(self) -> None:
        self._until, self._hangs = 0.0, False

    def storm(self, seconds: float, *, hangs: bool) -> None:
        """From now on, for so long."""
        self._hangs, self._until = hangs, time.monotonic() + seconds

    def decide(self, _number: int, _method: str, _path: str) -> Answer | None:
        """Called for each request, in its own thread."""
        left = self._until - time.monotonic()
        if left <= 0:
            return None
        if self._hangs:
            time.sleep(left)
            return None
        return Answer(503, "SlowDown")
