"""`chexworld doctor`: the checks of each machine of the cluster, and of the cluster itself."""

import os
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from chexworld_ray.errors import UserError
from chexworld_ray.runtime.checks import Check, machine_checks
from chexworld_ray.runtime.cluster import EVAL_SLOT, TRAIN_SLOT, connect, total

HERE = "here"
PATIENCE = 60.0  # s for the checks of another machine


def examine(storage_url: str | None) -> list[tuple[str, Check]]:
    """(machine or "here" or "cluster", check); nothing raises, what fails is a line."""
    found = [(HERE, check) for check in machine_checks(storage_url)]
    try:
        connect(storage_url)
    except UserError as error:
        return [*found, ("cluster", Check("Ray", "fail", str(error), "see `ray status` on the head"))]
    found.append(("cluster", _access()))
    nodes = [node for node in ray.nodes() if node["Alive"]]
    found.append(("cluster", _resources(nodes)))
    found.append(("cluster", _slots(nodes)))
    others = [node for node in nodes if node["NodeID"] != ray.get_runtime_context().get_node_id()]
    return found + [(node["NodeManagerAddress"], check) for node in others for check in _remote(node, storage_url)]


def failed(found: list[tuple[str, Check]]) -> bool:
    """Whether something must be mended before a run can start."""
    return any(check.state == "fail" for _, check in found)


def _remote(node: dict[str, Any], storage_url: str | None) -> list[Check]:
    """Run the checks there; they take no CPU from what runs."""
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(machine_checks).options(num_cpus=0, scheduling_strategy=strategy, max_retries=0)
    try:
        return ray.get(task.remote(storage_url), timeout=PATIENCE)
    except Exception as error:
        said = " ".join(str(error).split())[-200:]
        advice = "is chexworld_ray, of this version, installed there, and does the machine answer?"
        return [Check("machine", "fail", f"the checks did not come back: {type(error).__name__} {said}", advice)]


def _access() -> Check:
    """Who can run code on this Ray: of a private one it is looked at, of a cluster the token tells it."""
    mode, address = os.environ.get("RAY_AUTH_MODE", ""), os.environ.get("RAY_ADDRESS", "")
    if not address:
        return _private_access(mode == "token", listeners(psutil.Process()))
    if mode == "token":
        return Check("auth", "ok", "by token")
    advice = "whoever reaches the head's ports runs code there: set RAY_AUTH_MODE=token on every machine"
    return Check("auth", "warn", f"{address} without a token", advice)


def _private_access(by_token: bool, open_to: list[str]) -> Check:
    outside = [one for one in open_to if not ip_address(one).is_loopback]
    said = f"a private Ray, {'by a token of its own' if by_token else 'without a token'}"
    if outside:
        return Check("auth", "warn", f"{said}, listens on {', '.join(outside)}", "let a firewall close this machine")
    return Check("auth", "ok" if by_token else "warn", f"{said}, on loopback only")


def listeners(process: psutil.Process) -> list[str]:
    """Addresses on which a process and all below it wait for connections."""
    found: set[str] = set()
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):  # it has just ended
            waiting = (link for link in one.net_connections("tcp") if link.status == psutil.CONN_LISTEN)
            found.update(link.laddr.ip.removeprefix("::ffff:") for link in waiting)
    return sorted(found)


def _resources(nodes: list[dict[str, Any]]) -> Check:
    said = f"{len(nodes)} machine{'s' * (len(nodes) > 1)}, {total('CPU'):g} CPUs, {total('GPU'):g} GPUs"
    if total("CPU") < 2:
        return Check("Ray", "warn", said, "reading and training want at least 2 CPUs")
    return Check("Ray", "ok", said)


def _slots(nodes: list[dict[str, Any]]) -> Check:
    train, evaluation, gpu = total(TRAIN_SLOT), total(EVAL_SLOT), total("GPU")
    said = f"{train:g} {TRAIN_SLOT}, {evaluation:g} {EVAL_SLOT}"
    if not train and len(nodes) == 1:
        return Check("slots", "ok", f"{said}: one machine needs none")
    if not train:
        advice = (
            f"""ray start --resources '{{"{TRAIN_SLOT}": 1}}' where training may run, else evaluation takes its place"""
        )
        return Check("slots", "warn", said, advice)
    if gpu and train + evaluation > gpu:
        return Check("slots", "warn", f"{said}, and {gpu:g} GPUs", "declare one slot for each GPU, of one kind")
    return Check("slots", "ok", said)
