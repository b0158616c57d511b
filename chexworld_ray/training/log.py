"""metrics.jsonl and TensorBoard events of a run: always below the run's URL, continued after a resume."""

import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from chexworld_ray.errors import UserError
from chexworld_ray.storage import Place, exists, fetch_named, write_bytes
from chexworld_ray.training.trackers import Tracking

METRICS = "metrics.jsonl"
LARGEST = 1 << 30  # bytes of it
TENSORBOARD = "tensorboard"
SHOWN = ("images_seen", "loss", "images_per_second", "wait_fraction")
"""What a report shows, and every record of training holds."""


def read_metrics(run: Place, needed: tuple[str, ...] = ("images_seen",)) -> list[dict[str, Any]]:
    """Records of a run by images seen, each with the numbers that are `needed`; empty where there are none.

    A line that a full disk or a lost machine cut short is left out: no run may fail to start again for its curve.

    Raises:
        UserError: a whole line is no record of numbers.
    """
    file = run / METRICS
    if not exists(file):
        return []
    records = []
    lines = fetch_named(file, LARGEST).decode(errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        except (ValueError, RecursionError):
            record = None
        if not _is_record(record, needed):
            raise UserError(f"{file.url}: line {number} is no record of numbers with {', '.join(needed)}; damaged")
        records.append(record)
    return records


def _is_record(record: Any, needed: tuple[str, ...]) -> bool:
    if not isinstance(record, dict) or any(record.get(name) is None for name in needed):
        return False
    if any(isinstance(record[name], str) for name in needed):
        return False
    known = [value for value in record.values() if value is not None]
    return all(isinstance(value, float | str) or (isinstance(value, int) and abs(value) < 1 << 53) for value in known)


def read_numbers(run: Place) -> list[dict[str, float]]:
    """What a report shows of `read_metrics`: the numbers of each record.

    Raises:
        UserError: a whole line is no record of training.
    """
    return [
        {name: value for name, value in record.items() if isinstance(value, float | int)}
        for record in read_metrics(run, SHOWN)
    ]


def write_events(run: Place, values: Mapping[str, float], images_seen: int) -> None:
    """Numbers that another process than the trainer found out, into a TensorBoard file of their own."""
    with tempfile.TemporaryDirectory(prefix="events-") as name:
        with SummaryWriter(name, filename_suffix=f".{uuid.uuid4().hex[:8]}") as writer:
            for tag, value in values.items():
                writer.add_scalar(tag, value, images_seen)
        for file in Path(name).iterdir():
            write_bytes(run / TENSORBOARD / file.name, file.read_bytes())


class RunLog:
    """Writes records; those beyond the position that a run resumes from are dropped, for they will come again.

    Object stores can't append, so there lines are gathered and the file is put anew at each `flush`.
    """

    def __init__(self, run: Place, position: int, tensorboard: bool, tracking: Tracking | None = None) -> None:
        self._run, self._tracking = run, tracking
        self._stale = False
        self._lines = [json.dumps(record) for record in read_metrics(run) if record["images_seen"] <= position]
        self.flush_metrics()
        self._folder: Path | None = None
        self._writer: SummaryWriter | None = None
        if tensorboard:
            self._folder = Path(run.path) / TENSORBOARD if run.is_local else Path(tempfile.mkdtemp())
            self._writer = SummaryWriter(str(self._folder), purge_step=position + 1 if position else None)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._tracking is not None:
            self._tracking.close()
        self.flush()
        if self._folder is not None and not self._run.is_local:
            shutil.rmtree(self._folder)

    def write(self, record: dict[str, Any]) -> None:
        """One record of numbers with `images_seen`."""
        line = json.dumps(record)
        self._lines.append(line)
        if self._run.is_local:
            try:
                with open((self._run / METRICS).path, "a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError:  # a full disk must not stop training; the next `flush` puts the file whole
                self._stale = True
        if self._tracking is not None:
            self._tracking.log(record)
        if self._writer is not None:
            for name, value in record.items():
                if isinstance(value, float | int) and not name.startswith(("images_", "time")):
                    self._writer.add_scalar(name, value, record["images_seen"])
            self._writer.add_scalar("images_per_second", record["images_per_second"], record["images_seen"])

    def flush_metrics(self) -> None:
        """Put metrics.jsonl, whole."""
        write_bytes(self._run / METRICS, "".join(line + "\n" for line in list(self._lines)).encode())
        self._stale = False

    def flush(self) -> None:
        """Bring what is stored up to date."""
        if self._writer is not None:
            self._writer.flush()
        if self._run.is_local and not self._stale:
            return
        self.flush_metrics()
        if self._run.is_local:
            return
        for file in self._folder.iterdir() if self._folder is not None else ():
            write_bytes(self._run / TENSORBOARD / file.name, file.read_bytes())
