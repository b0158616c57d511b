"""A run's record: which settings and data a name stands for, and which checkpoints it has."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chexworld_ray.config import RunSettings, Science, ViewSettings, difference, from_dict, to_dict
from chexworld_ray.errors import UserError
from chexworld_ray.shards import plan
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import Place, StorageError, children, exists, fetch, place, read_json, write_json
from chexworld_ray.training.checkpoint_files import FILES, MANIFEST, damage, position_of
from chexworld_ray.trust import data_version

CONFIG = "config.json"
SCHEMA_VERSION = 2
PLANS = {1: 1, SCHEMA_VERSION: plan.VERSION}
"""Versions of the record that are read, and of the plan that their runs follow. In the first, blur was told in pixels
of the view, whatever its side."""


@dataclass(frozen=True)
class Run:
    """A run at its URL: `<storage>/<name>`."""

    root: Place
    science: Science
    data: list[dict[str, Any]]
    """url, version and rows of each data set that it learns from."""
    pixels: tuple[float, float]
    """Grey mean and std that its encoder normalises by."""
    starts: list[dict[str, Any]]
    """Time and runtime settings of each start."""
    rows: int
    """Images of an epoch."""
    version: int
    """Of its record: what settings mean in it, and the order of its images."""

    @property
    def plan(self) -> int:
        """Version of the plan that it follows."""
        return PLANS[self.version]

    def meaning(self, science: Science) -> Science:
        """What settings that a user names today mean in this run: what its version did not know stays as it was."""
        return _as_first(science) if self.version == 1 else science

    @property
    def total(self) -> int:
        """Images that it sees to its end."""
        return self.science.total_batches(self.rows) * self.science.global_batch


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint folder in storage."""

    root: Place
    position: int


def begun(root: Place, resume_from: str | None) -> Run | None:
    """The run whose meaning of settings and whose order of images one at `root` has to keep: itself, or the one that it
    goes on from; None where it begins.

    Raises:
        UserError: there is no run to go on from, or a record is damaged.
    """
    if exists(root / CONFIG):
        return load(root)
    return None if resume_from is None else _owner(resume_from)


def open_or_create(
    root: Place, settings: RunSettings, manifests: list[Manifest], rows: int, version: int = SCHEMA_VERSION
) -> Run:
    """Continue the run that stands at `root`, or make its record, of that version.

    Raises:
        UserError: the name is taken by a run with other science or data; the difference is told.
    """
    data = [{"url": m.url, "version": m.data_version, "rows": m.rows} for m in manifests]
    record = record_of(settings.science, _pixels(manifests), version) | {"data": data, "rows": rows}
    file = root / CONFIG
    if exists(file):
        there = load(root)
        changes, used = _changes(there, settings.science, manifests)
        if changes:
            raise UserError(
                f"{root.url} is a run with other settings ({changes}); choose another --name, or the old settings"
                + (f" and data ({used})" if used else "")
            )
        record |= {"schema_version": there.version, "science": to_dict(there.science), "starts": there.starts}
    record["starts"].append({"time": time.time(), "runtime": to_dict(settings.runtime)})
    write_json(file, record)
    return load(root)


def compatible(url: str, science: Science, manifests: list[Manifest]) -> str:
    """The address of a run, or of one of its checkpoints, that a run with these settings and data can go on from.

    Raises:
        UserError: there is none, or its settings or data are others.
    """
    changes, _ = _changes(_owner(url), science, manifests)
    if changes:
        raise UserError(f"--resume-from {url}: other settings ({changes}); --init takes only its weights")
    if not checkpoints_at(url):
        raise UserError(f"--resume-from {url}: no checkpoint there")
    return place(url).url


def _owner(url: str) -> Run:
    """The run at `url`, or that of the checkpoint there."""
    root = place(url)
    return load(root if position_of(root.name) is None else root.parent)


def _changes(there: Run, science: Science, manifests: list[Manifest]) -> tuple[str, str]:
    """What differs in science and data's versions; the old data's addresses, where these differ."""
    theirs = {"science": to_dict(there.science), "data": [entry["version"] for entry in there.data]}
    mine = {"science": to_dict(there.meaning(science)), "data": [m.data_version for m in manifests]}
    used = ", ".join(entry["url"] for entry in there.data)
    return "; ".join(difference(theirs, mine)), used if mine["data"] != theirs["data"] else ""


def _as_first(science: Science) -> Science:
    """As a record of version 1 is meant, which knows no `blur_side`: blur is told in pixels of the view."""
    if science.views.blur_side != ViewSettings().blur_side:
        return science
    return replace(science, views=replace(science.views, blur_side=science.model.image_size))


def record_of(science: Science, pixels: tuple[float, float], version: int = SCHEMA_VERSION) -> dict[str, Any]:
    """config.json of a run that has seen no data and has not been started."""
    return {
        "schema_version": version,
        "science": to_dict(science),
        "data": [],
        "rows": 0,
        "pixels": list(pixels),
        "starts": [],
    }


def load(root: Place) -> Run:
    """Read a run's record.

    Raises:
        UserError: there is no run, or its record is damaged.
    """
    file = root / CONFIG
    if not exists(file):
        raise UserError(f"{root.url}: no run there (no {CONFIG})")
    record = read_json(file)
    version = record.get("schema_version")
    if type(version) is not int or version not in PLANS:
        known = " and ".join(map(str, PLANS))
        raise UserError(f"{file.url}: schema version {version!r}, this program reads {known}")
    read = from_dict(_Record, record, file.url)
    for entry in read.data:
        data_version(entry.version, file.url)
    mean, std = read.pixels
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0 and read.rows >= 0):
        raise UserError(f"{file.url}: damaged run record (pixels {read.pixels}, rows {read.rows})")
    data = [asdict(entry) for entry in read.data]
    science = _as_first(read.science) if version == 1 else read.science
    return Run(root, science, data, read.pixels, [asdict(start) for start in read.starts], read.rows, version)


@dataclass(frozen=True)
class _Data:
    url: str
    version: str
    rows: int


@dataclass(frozen=True)
class _Start:
    time: float
    runtime: dict[str, Any]


@dataclass(frozen=True)
class _Record:
    """config.json, as far as it is read again; it may be a stranger's."""

    science: Science
    data: list[_Data]
    pixels: tuple[float, float]
    starts: list[_Start]
    rows: int


def load_url(url: str) -> Run:
    """`load` from what a user typed."""
    return load(place(url))


def checkpoints(root: Place) -> list[StoredCheckpoint]:
    """Checkpoint folders of a run, oldest first; whether each is whole is not yet known."""
    found = [(position_of(child.name), child) for child in children(root)]
    return sorted(
        (StoredCheckpoint(child, position) for position, child in found if position is not None),
        key=lambda checkpoint: (checkpoint.position, checkpoint.root.name),
    )


def checkpoints_at(url: str) -> list[StoredCheckpoint]:
    """Checkpoint folders of the run at `url`, oldest first, or the one folder that it names."""
    root = place(url)
    position = position_of(root.name)
    if position is None:
        return checkpoints(root)
    return [StoredCheckpoint(root, position)] if exists(root) else []


@contextmanager
def local_copy(checkpoint: StoredCheckpoint) -> Iterator[tuple[Path, str | None]]:
    """A temporary local folder with the files of a checkpoint, and what is wrong with them (None: whole).

    Nothing is read of one without its last file, and of no other file than those of a checkpoint.

    Raises:
        StorageError: the store can't be reached or refuses; the local disk is full.
        UserError: a file can't be read, or is a folder.
        FileNotFoundError: a file went away meanwhile.
    """
    with TemporaryDirectory(prefix="checkpoint-") as name:
        folder = Path(name)
        files = children(checkpoint.root)
        if any(file.name == MANIFEST for file in files):
            for file in files:
                if file.name in (*FILES, MANIFEST):
                    _unpack(folder / file.name, _fetched(file))
        yield folder, damage(folder)


def _fetched(file: Place) -> bytes:
    try:
        return fetch(file)
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{file.url}: can't be read ({error.strerror or type(error).__name__})") from None


def _unpack(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        raise StorageError(f"{file.parent}: {len(data)} bytes can't be unpacked ({error.strerror}); TMPDIR?") from None


@contextmanager
def newest_whole(url: str) -> Iterator[Path]:
    """A local copy of a run's newest whole checkpoint, or of the checkpoint folder that `url` names.

    Raises:
        UserError: there is no run, or no checkpoint is whole.
    """
    if position_of(place(url).name) is None:
        load_url(url)  # tells where there is no run
    for candidate in reversed(checkpoints_at(url)):
        with local_copy(candidate) as (folder, reason):
            if reason is None:
                yield folder
                return
    raise UserError(f"{url}: no whole checkpoint there")


def _pixels(manifests: list[Manifest]) -> tuple[float, float]:
    """Grey mean and std over several data sets, weighted by their images."""
    rows = sum(m.rows for m in manifests)
    mean = sum(m.grey_mean * m.rows for m in manifests) / rows
    square = sum((m.grey_std**2 + m.grey_mean**2) * m.rows for m in manifests) / rows
    return mean, max(square - mean * mean, 1e-12) ** 0.5
