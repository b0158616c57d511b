"""Failures of training workers: each is told at once, and one that no new start would cure ends the run, in one line.

Ray Train starts a group of workers again after every error, and says nothing of it. What its controller looks at here
lives beside it, and outlives the groups.
"""

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train.v2._internal.exceptions import (
    CollectiveTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback, ReportCallback, WorkerGroupCallback
from ray.train.v2.api.exceptions import ControllerError

from chexworld_ray.addresses import masked
from chexworld_ray.errors import UserError
from chexworld_ray.storage import StorageError, is_away

LONGEST = 300  # characters of what an error says
_LOST_PEER = re.compile(r"(?i)gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe")
_NO_MEMORY = re.compile(r"(?i)out[ _]?of[ _]?memory|MemoryError|running low on memory|allocate memory")
_NETWORK = (
    *(RayError, CollectiveTimeoutError, WorkerHealthCheckTimeoutError),
    *(ConnectionError, TimeoutError, dist.DistError),
)
_PACKAGE = Path(__file__).parents[1]


class WorkerFailed(Exception):
    """What a worker met, in words that survive the way to the driver; the whole of it is in Ray's log of the worker."""

    def __init__(self, kind: str, said: str, where: str, position: int | None, *, counts: bool = True) -> None:
        """`position`: images seen; None where nobody knows. `counts`: a lost machine is not to blame for it."""
        super().__init__(kind, said, where, position)
        self.kind, self.said, self.where, self.position, self.counts = kind, said, where, position, counts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.kind, self.said, self.where, self.position, self.counts)

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.kind}: {self.said}{place}" if self.said else f"{self.kind}{place}"

    @property
    def identity(self) -> tuple[str, str, int | None]:
        """Equal where it is the same error again, whose words may have other numbers."""
        return self.kind, self.where, self.position


def _rebuilt(kind: str, said: str, where: str, position: int | None, counts: bool) -> WorkerFailed:
    return WorkerFailed(kind, said, where, position, counts=counts)


@contextmanager
def failing_at(position: Callable[[], int | None]) -> Iterator[None]:
    """Turn what is raised inside into a `WorkerFailed` at that many images seen (None: at a start, before any); what a
    user can mend goes on as it is.

    Raises:
        UserError: the same.
        WorkerFailed: anything else.
    """
    try:
        yield
    except (UserError, WorkerFailed):
        raise
    except Exception as error:
        raise _described(error, position()) from error


def _described(error: Exception, position: int | None) -> WorkerFailed:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) != Path(__file__)]
    own = [frame for frame in frames if _PACKAGE in Path(frame.filename).parents]
    where = "".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (own or frames)[-1:])
    said = masked(" ".join(str(error).split()))[:LONGEST]
    return WorkerFailed(type(error).__name__, said, where, position, counts=not _of_a_loss(error))


def _of_a_loss(error: Exception) -> bool:
    """Whether another worker, a machine, the network or a storage may be to blame, so that a new start may cure it."""
    if isinstance(error, RayTaskError):
        return isinstance(error.cause, RayError) or is_away(error.cause)
    if isinstance(error, _NETWORK) or is_away(error):
        return True
    return isinstance(error, RuntimeError) and _LOST_PEER.search(str(error)) is not None


class Failures(ControllerCallback, WorkerGroupCallback, ReportCallback):
    """Lives in Ray Train's controller. What is raised while it looks at workers ends the run, without a new start."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._position = 0  # of the newest checkpoint
        self._counted: set[tuple[str, str, int | None]] = set()  # errors since then
        self._told = self._not_started = ""
        self._halted: Any = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """What it has told was of another group."""
        self._told = ""

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Tell why workers could not be started, which Ray tries again without end."""
        error = getattr(current_state, "training_failed_error", None)
        if isinstance(error, ControllerError) and not current_state.is_terminal():
            said = masked(" ".join(str(error.controller_failure).split()))[:LONGEST]
            if said != self._not_started:
                self._board.push.remote({"message": f"the workers could not be started ({said}); it is tried again"})
            self._not_started = said

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        """Remember how far the newest checkpoint is."""
        newest = max([self._position, *(one.get("images_seen", 0) for one in metrics)])
        if newest > self._position:
            self._position = newest
            self._counted.clear()

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Twice a second: errors of workers, and whether the driver wants the run to end.

        Raises:
            UserError: a user can mend it; it came twice at the same position; or the driver says so.
        """
        self._end_if_halted()
        errors = worker_group_status.errors
        if errors:
            self.weigh(errors)

    def _end_if_halted(self) -> None:
        """Ends the run where the driver said so before the last look: this one may not wait for an answer."""
        if self._halted is not None:
            if not ray.wait([self._halted], timeout=0)[0]:
                return
            reason = ray.get(self._halted)
            if reason:
                raise UserError(reason)
        self._halted = self._board.halted.remote()

    def weigh(self, errors: Mapping[int, Exception]) -> None:
        """Tell the error of the first worker that is to blame, by rank; give up where a new start would not help.

        Raises:
            UserError: so it is.
        """
        for error in errors.values():
            if isinstance(error, UserError) and not isinstance(error, StorageError):
                raise error
        rank, failed = to_blame(errors, self._position)
        told = f"worker {rank} failed{_at(failed)}: {failed}"
        if told == self._told:  # Ray shows the errors of a group again while it waits for a machine to go
            return
        self._told = told
        if failed.counts and failed.identity in self._counted:
            raise UserError(
                f"{told}; the same error came before at the same position, so that a new start does not help"
                f"{_advice(failed)}; mend it, and the same command goes on from the newest checkpoint"
            )
        if failed.counts:
            self._counted.add(failed.identity)
        self._board.push.remote({"message": f"{told}; the workers start again from the newest checkpoint"})


def to_blame(errors: Mapping[int, Exception], position: int) -> tuple[int, WorkerFailed]:
    """The worker, by rank, whose error the others' may follow from. `position`: of the newest checkpoint."""
    found = {rank: _read(errors[rank], position) for rank in sorted(errors)}
    lost = next((rank for rank, one in found.items() if not one.counts and isinstance(errors[rank], _LOSSES)), None)
    rank = lost if lost is not None else next((at for at, one in found.items() if one.counts), next(iter(found)))
    return rank, found[rank]


_LOSSES = (RayActorError, WorkerHealthCheckFailedError)


def _read(error: Exception, position: int) -> WorkerFailed:
    if isinstance(error, WorkerFailed):
        return error
    if isinstance(error, StorageError):
        return WorkerFailed("its storage", str(error), "", None, counts=False)
    if isinstance(error, WorkerHealthCheckFailedError):
        error = error.health_check_failure
    if not isinstance(error, RayActorError):
        return _described(error, position)
    if error.preempted:
        return WorkerFailed("its machine was taken back", "", "", None, counts=False)
    if _NO_MEMORY.search(str(error)):
        return WorkerFailed("out of memory", "Ray ended it to keep its machine alive", "", position)
    return WorkerFailed("its process or machine is gone", "killed, or out of memory", "", None, counts=False)


def _at(failed: WorkerFailed) -> str:
    return "" if failed.position is None else f" at {failed.position} images seen"


def _advice(failed: WorkerFailed) -> str:
    if not _NO_MEMORY.search(f"{failed.kind} {failed.said}"):
        return ""
    return " (less memory: a lower --micro-batch, --activation-checkpointing)"
