"""Experiment trackers beside metrics.jsonl and TensorBoard: W&B and MLflow, behind one small face.

Where they send to, and with which secret, they read from their own environment variables (WANDB_API_KEY,
MLFLOW_TRACKING_URI, …). Which run of theirs belongs to a run of ours stands in its `tracker.json`, so that a resume
goes on in the same one.
"""

import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from chexworld_ray.addresses import masked
from chexworld_ray.config import TrackerKind, flat
from chexworld_ray.errors import UserError
from chexworld_ray.storage import Place, exists, read_json, write_json
from chexworld_ray.trust import plain_name

IDENTITY = "tracker.json"
PROJECT = "chexworld_ray"


_MLFLOW_NAMES = ("databricks", "databricks-uc", "uc")  # addresses without a path
_MLFLOW_REMEDY = (
    "set MLFLOW_TRACKING_URI=http://HOST:5000, where `mlflow server` runs (the full package: pip install mlflow); or "
    "file:///ABSOLUTE/FOLDER and MLFLOW_ALLOW_FILE_STORE=true; or, with the full package, sqlite:////ABSOLUTE/FILE.db"
)


class Tracker(Protocol):
    """Takes numbers of a run."""

    identity: str
    """Name of its run, at the tracker's."""

    def log(self, values: dict[str, float], images_seen: int) -> None:
        """Numbers after so many images."""
        ...

    def close(self) -> None:
        """All has been sent."""
        ...


class _Mlflow:
    """Tags the run with its URL; steps are images seen."""

    def __init__(self, run: Place, identity: str | None, settings: dict[str, Any]) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        if identity is None:
            experiment = self._client.get_experiment_by_name(PROJECT)
            where = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
            started = self._client.create_run(where, run_name=run.name, tags={"url": run.url})
            identity = started.info.run_id
            for name, value in flat(settings).items():
                self._client.log_param(identity, name, value)
        self.identity = identity
        self._client.update_run(identity, status="RUNNING")

    def log(self, values: dict[str, float], images_seen: int) -> None:
        """One point of each number."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.identity, [Metric(name, value, now, images_seen) for name, value in values.items()])

    def close(self) -> None:
        """Told as finished; a resume opens it again."""
        self._client.set_terminated(self.identity)


class _Wandb:
    """Steps are images seen; rolled-back steps are left to W&B, which keeps the first."""

    def __init__(self, run: Place, identity: str | None, settings: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(project=PROJECT, name=run.name, id=identity, resume="allow", config=settings)
        self.identity = str(self._run.id)

    def log(self, values: dict[str, float], images_seen: int) -> None:
        """One point of each number."""
        self._run.log(values, step=images_seen)

    def close(self) -> None:
        """All has been sent."""
        self._run.finish()


_KINDS: dict[TrackerKind, Callable[[Place, str | None, dict[str, Any]], Tracker]] = {"mlflow": _Mlflow, "wandb": _Wandb}


class Tracking:
    """A tracker whose failures are told once and never stop a run."""

    def __init__(self, kind: TrackerKind, run: Place, settings: dict[str, Any], say: Callable[[str], None]) -> None:
        self._kind, self._say = kind, say
        self._tracker: Tracker | None = None
        file = run / IDENTITY
        known = read_json(file) if exists(file) else {}
        if known.get(kind) is not None:
            plain_name(known[kind], file.url)

        def opened() -> None:
            self._tracker = _KINDS[kind](run, known.get(kind), settings)
            if self._tracker.identity != known.get(kind):
                write_json(file, known | {kind: self._tracker.identity})

        self._try(opened)

    def log(self, record: dict[str, Any]) -> None:
        """The numbers of a record of metrics.jsonl."""
        tracker = self._tracker
        if tracker is not None:
            numbers = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
            self._try(lambda: tracker.log(numbers, int(record["images_seen"])))

    def close(self) -> None:
        """All has been sent."""
        if self._tracker is not None:
            self._try(self._tracker.close)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # each tracker has its own, and none is worth a run
            said = masked(f"{type(error).__name__}: {error}")[:600]
            self._say(f"{self._kind} is given up until the next start: {said}")
            self._tracker = None


def require(kind: TrackerKind | None) -> None:
    """Make sure that the tracker's client is installed, and that it can open what its environment names.

    Raises:
        UserError: it is not, or can't; with what to set. Whether a server answers is not asked.
    """
    if kind is None:
        return
    if importlib.util.find_spec(kind) is None:
        raise UserError(f'--tracker {kind}: its client is not installed; pip install "chexworld_ray[{kind}]"')
    if kind == "mlflow":
        _require_mlflow()


def _require_mlflow() -> None:
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address:
        raise UserError(f"--tracker mlflow: MLFLOW_TRACKING_URI is not set; {_MLFLOW_REMEDY}")
    if _is_relative(address):
        raise UserError(f"--tracker mlflow: workers don't find {address} from their own folder; {_MLFLOW_REMEDY}")
    from mlflow import MlflowClient

    try:
        MlflowClient()
    except Exception as error:  # its stores have no common base for what they lack
        said = masked(" ".join(str(error).split())).partition(". ")[0][:200]
        raise UserError(f"--tracker mlflow: {masked(address)} can't be used ({said}); {_MLFLOW_REMEDY}") from None


def _is_relative(address: str) -> bool:
    """Whether an address of MLflow is a file or folder that depends on where a process stands."""
    scheme, colon, rest = address.partition(":")
    if not colon:
        return not address.startswith("/") and address not in _MLFLOW_NAMES
    if scheme == "file":
        return not rest.startswith("/") or (rest.startswith("//") and not rest.startswith("///"))
    return scheme == "sqlite" and not rest.startswith("////")
