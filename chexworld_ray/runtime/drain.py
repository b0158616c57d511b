"""Telling Ray that a machine is about to go: nothing new is placed there, and training writes a checkpoint at once."""

import socket
import time
from dataclasses import dataclass

import psutil
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]  # compiled
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RaySystemError, RpcError

from chexworld_ray.errors import UserError
from chexworld_ray.spot import Notice

TIMEOUT = 30.0


@dataclass(frozen=True)
class Member:
    """A machine of a cluster."""

    gcs: str
    """host:port of the cluster's head."""
    node_id: str


def find_member(node_id: str | None) -> Member:
    """The machine `node_id` of the cluster that runs here (or at RAY_ADDRESS); unset: this machine. Does not join it.

    Raises:
        UserError: no cluster, or no such machine in it, or several.
    """
    try:
        gcs = canonicalize_bootstrap_address_or_die("auto")
        nodes = GcsClient(address=gcs).get_all_node_info(timeout=TIMEOUT)
    except (ConnectionError, RaySystemError, RpcError) as error:
        raise UserError(f"no Ray cluster here ({error}); run this on a machine of one, or set RAY_ADDRESS") from None
    alive = {key.hex(): info for key, info in nodes.items() if info.state == 0}
    if node_id is not None:
        if node_id not in alive:
            raise UserError(f"--node {node_id}: {gcs} has no such machine; it has {', '.join(alive) or 'none'}")
        return Member(gcs, node_id)
    own = {at.address for of in psutil.net_if_addrs().values() for at in of if at.family == socket.AF_INET}
    here = [key for key, info in alive.items() if info.node_manager_address in own]
    if len(here) != 1:
        raise UserError(f"{len(here)} nodes of {gcs} run on this machine ({', '.join(here) or 'none'}); say --node")
    return Member(gcs, here[0])


def drain(member: Member, notice: Notice) -> None:
    """Ray places nothing more there, and tells the training workers the deadline.

    Raises:
        UserError: Ray does not accept it.
    """
    reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # pyright: ignore[reportAttributeAccessIssue]  # generated
    deadline_ms = int(max(notice.deadline, time.time() + 1.0) * 1000)
    accepted, why = GcsClient(address=member.gcs).drain_node(member.node_id, reason, notice.reason, deadline_ms)
    if not accepted:
        raise UserError(f"{member.gcs} does not let {member.node_id} go: {why}")
