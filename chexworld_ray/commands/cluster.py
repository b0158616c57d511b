"""What a cluster needs beside training: submit, doctor, drain. Arguments only; the work is imported inside `run`."""

import time
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

import tyro

from chexworld_ray.commands.common import json_line
from chexworld_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Drain:
    """Tell Ray that this machine is about to be taken back, so that training writes a checkpoint and moves on."""

    watch: Literal["aws", "gcp", "azure"] | None = None
    """Wait for the notice of this cloud's metadata server; unset: the machine goes now (Kubernetes preStop)."""
    seconds: float = 25.0
    """Without --watch: how long the machine still has. The command ends then, and not before."""
    poll_seconds: float = 5.0
    """Seconds between two questions to the metadata server."""
    endpoint: str | None = None
    """URL of the metadata server; unset: the cloud's own."""
    node: str | None = None
    """Ray's id of the machine; unset: this one."""

    def run(self) -> None:
        from chexworld_ray.runtime.cluster import say
        from chexworld_ray.runtime.drain import drain, find_member
        from chexworld_ray.spot import Notice, metadata, wait_for_notice

        if self.seconds <= 0 or self.poll_seconds <= 0:
            raise UserError("drain: --seconds and --poll-seconds must be greater than 0")
        member = find_member(self.node)
        if self.watch is None:
            notice = Notice(time.time() + self.seconds, "the machine is being stopped")
        else:
            server = metadata(self.watch, self.endpoint)
            say(f"watching {server.endpoint} for {member.node_id}")
            notice = wait_for_notice(server, self.poll_seconds, say)
        drain(member, notice)
        left = notice.deadline - time.time()
        say(f"{notice.reason}: {member.node_id} goes in {left:.0f} s, Ray knows")
        if self.watch is None:
            time.sleep(max(0.0, left))


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Run a command of this program as a job of a cluster, and follow it: chexworld submit -- pretrain --data …"""

    words: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The command and its arguments, after `--`. A job that does the same and still runs is followed."""
    address: str | None = None
    """The dashboard, http://HEAD:8265; unset: RAY_API_SERVER_ADDRESS, or this machine's. A token is taken
    from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."""
    wait: bool = True
    """Follow the logs and end with the job."""

    def run(self) -> int:
        from chexworld_ray.runtime.submit import submit

        return submit(self.words, self.address, wait=self.wait)


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Look at this machine, the cluster and the storage: a line each, and what to do. Exit code 1 where one fails."""

    storage: str | None = None
    """Where runs are to live: a file is written there, read and removed."""
    json: bool = False
    """Print one JSON object on stdout."""

    def run(self) -> int:
        from chexworld_ray.addresses import masked
        from chexworld_ray.runtime.doctor import examine, failed

        found = [(machine, replace(check, said=masked(check.said))) for machine, check in examine(self.storage)]
        if self.json:
            json_line({"checks": [{"machine": machine} | asdict(check) for machine, check in found]})
        else:
            for machine, check in found:
                advice = f" → {check.advice}" if check.advice else ""
                print(f"{check.state:<4}  {machine}: {check.name}: {check.said}{advice}")  # noqa: T201
        return int(failed(found))
