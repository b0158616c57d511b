"""Joining or starting Ray, and saying in one line what can never be placed."""

import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from chexworld_ray.addresses import masked
from chexworld_ray.config import Runtime
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.seclusion import seclude, seclusion, without_keys
from chexworld_ray.storage import place

TRAIN_SLOT = "train_slot"
EVAL_SLOT = "eval_slot"
# Ray Train asks the dashboard whether its controller is alive, and looks for *any* Ray on the machine where it has no
# address. Another cluster answers "no such actor", and Train then removes the workers of a healthy private run.
NO_DASHBOARD = "http://127.0.0.1:9"

_DEFAULT_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # How often Train looks at its workers: until then a checkpoint is not in its list, a loss is not noticed, and a run
    # that has ended goes on. Its own is 2.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # scores are files of our own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def say(message: str) -> None:
    """A line for the user, passwords in addresses masked: everything but a final JSON object goes to stderr."""
    print(masked(message), file=sys.stderr, flush=True)  # noqa: T201


def connect(*addresses: str | None, clouds: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it set), or start a private one here.

    `addresses`: all that the command reads and writes. A private Ray gets the credentials of clouds only if one of them
    is remote, none is given, or the command wants them for something else (`clouds`).

    Raises:
        UserError: the cluster can't be reached.
    """
    for name, value in _DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _refuse_silent(address)
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"Ray at {address} can't be reached: {error}") from None
    else:
        _start(clouds=clouds or not addresses or any(_is_remote(one) for one in addresses if one))
    _quiet()


def _is_remote(address: str) -> bool:
    """Whether a worker needs the network for it: weights that timm knows by name it fetches from their hub."""
    name, at, file = address.partition("@")
    if name.startswith("timm:"):
        return not at or not place(file).is_local
    return not place(address).is_local


def _start(*, clouds: bool) -> None:
    """A private Ray; `clouds`: with their credentials.

    Raises:
        UserError: it does not come up.
    """
    import ray

    os.environ.setdefault("RAY_API_SERVER_ADDRESS", NO_DASHBOARD)
    seclude(seclusion())
    try:
        with without_keys(clouds=not clouds):
            ray.init(address="local", logging_level=logging.ERROR, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # Ray raises many kinds here, plain Exception among them
        said = " ".join(str(error).split())[:300]
        what_to_do = "the machine may be too busy, or short of memory: try again"
        if "AF_UNIX" in said:  # its sockets lie below the temporary folder
            what_to_do = "set RAY_TMPDIR to a short path, such as /tmp"
        raise UserError(f"Ray can't be started on this machine ({said}); {what_to_do}") from None


def _refuse_silent(address: str) -> None:
    """Ray tries for minutes to reach a head that is not there.

    Raises:
        UserError: nobody listens at host:port.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like
    try:
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"Ray at {address} can't be reached: {error.strerror or error}") from None


def _quiet() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def user_error(error: BaseException) -> UserError | None:
    """The UserError that a task met, out of what Ray wraps around it."""
    for one in causes(error):
        # Ray's own wrapper is of the cause's class too, and says the traceback
        if isinstance(one, UserError) and not isinstance(getattr(one, "cause", None), UserError):
            return one
    return None


def rows_told(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a Ray Data execution whose tasks tell in `told` what a user can mend; nothing (`""`) where all is well.

    Of an error Ray Data keeps the text only, with its traceback, so that `user_error` finds nothing in it.

    Raises:
        UserError: a task has told something.
    """
    for row in rows:
        if row["told"]:
            raise UserError(row["told"])
        yield row


def causes(error: BaseException) -> list[BaseException]:
    """An error, what Ray has wrapped it around, and what these came from."""
    seen: list[BaseException] = [error]
    for one in seen:
        wrapped = (getattr(one, name, None) for name in ("cause", "controller_failure"))
        further = (*wrapped, one.__cause__, one.__context__)
        seen += [deeper for deeper in further if isinstance(deeper, BaseException) and deeper not in seen]
    return seen


def total(resource: str) -> float:
    """How much of a resource the alive nodes declare."""
    import ray

    return float(ray.cluster_resources().get(resource, 0.0))


def evaluation_slot() -> dict[str, float]:
    """What evaluation asks for beside CPU and GPU: its slot, where slots are declared."""
    return {EVAL_SLOT: 1.0} if total(EVAL_SLOT) > 0 else {}


def evaluation_slots(gpu: bool) -> int:
    """How much of it may run at a time: slots where they are declared, else GPUs or CPUs."""
    return int(total(EVAL_SLOT) or total("GPU" if gpu else "CPU")) or 1


@dataclass(frozen=True)
class Placement:
    """What each training worker asks for."""

    resources: dict[str, float]
    notes: tuple[str, ...] = ()


def place_workers(runtime: Runtime) -> Placement:
    """Resources of one worker.

    Slots are asked for only where the cluster declares them. With fewer than workers + 2 CPUs each worker
    reserves a fraction, so that Ray Data keeps at least one.

    Raises:
        UserError: the request can never be placed.
    """
    cpus, workers = total("CPU"), runtime.most_workers
    notes: list[str] = []
    if runtime.cpus_per_worker is not None:
        each = runtime.cpus_per_worker
    elif runtime.autoscaling or cpus >= runtime.least_workers + 2:
        each = 1.0
    else:
        each = max(0.0, (cpus - 1.0)) / workers
        each = round(min(1.0, each) * 100) / 100
        notes.append(f"{cpus:g} CPUs for {workers} workers: each reserves {each:g}, so that reading keeps one")
    resources = {"CPU": each}
    if runtime.gpu:
        resources["GPU"] = 1.0
    if total(TRAIN_SLOT) > 0:
        resources[TRAIN_SLOT] = 1.0
    else:
        notes.append(f"the cluster declares no {TRAIN_SLOT}: workers are placed by CPU and GPU")
    if not runtime.autoscaling:
        _refuse_impossible(runtime, resources, cpus)
    return Placement(resources, tuple(notes))


def _refuse_impossible(runtime: Runtime, resources: dict[str, float], cpus: float) -> None:
    hint = "ask for less, join a larger cluster, or set --autoscaling where machines are added on demand"
    if runtime.cpus_per_worker is None and runtime.least_workers > cpus:
        raise UserError(
            f"--workers {runtime.workers} can never be placed: the cluster has {cpus:g} CPUs, "
            f"and each worker needs one; {hint}"
        )
    for name, amount in resources.items():
        reserve = 1.0 if name == "CPU" else 0.0
        if runtime.least_workers * amount > total(name) - reserve + 1e-6:
            kept = " (one is kept for reading)" if reserve else ""
            raise UserError(
                f"{runtime.least_workers} workers with {amount:g} {name} each can never be placed: "
                f"the cluster has {total(name):g} {name}{kept}; {hint}"
            )
