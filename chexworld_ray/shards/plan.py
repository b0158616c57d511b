"""The epoch plan: which image comes at which position, a pure function of manifest, seed and epoch.

Epochs follow one another in one endless sequence. A position in it is one integer, the images seen; it
is valid for any number of workers. In an epoch the row groups are permuted; rows are permuted within
windows of a few row groups, so that reading a window reads each of its row groups once.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from chexworld_ray.errors import UserError
from chexworld_ray.hashing import Purpose, permutation
from chexworld_ray.shards.manifest import Manifest

VERSION = 2
_STREAMS = {1: (1, 2), VERSION: (Purpose.PLAN_GROUPS, Purpose.PLAN_ROWS)}
"""Purposes of the two permutations, by version of the plan: those of the first were also of crops and jitter."""
WINDOW_GROUPS = 4


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A unit of reading: one row group of one file."""

    url: str
    index: int
    rows: int


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive positions [start, start + rows) of the endless sequence, in whole row groups."""

    epoch: int
    number: int
    start: int
    groups: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class Plan:
    """Endless deterministic order over row groups."""

    groups: tuple[RowGroup, ...]
    seed: int
    image_bytes: int
    """Mean size of an image in its file, over all that are selected."""
    version: int = VERSION
    """Of how it is drawn: that of the program which began the run."""

    def __post_init__(self) -> None:
        if self.version not in _STREAMS:
            known = ", ".join(map(str, _STREAMS))
            raise UserError(f"plan version {self.version}: this program knows {known}; a newer one began this run")

    @cached_property
    def rows(self) -> int:
        """Images of one epoch."""
        return sum(group.rows for group in self.groups)

    @cached_property
    def digest(self) -> str:
        """Changes when files, row groups, seed or version do."""
        text = repr([(group.url.rsplit("/", 1)[-1], group.index, group.rows) for group in self.groups]) + str(self.seed)
        text += f" version {self.version}" if self.version > 1 else ""  # the first had none
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def epoch_windows(self, epoch: int) -> list[Window]:
        """All windows of an epoch, in order."""
        order = permutation(len(self.groups), self.seed, epoch, _STREAMS[self.version][0])
        windows, start = [], epoch * self.rows
        for number, first in enumerate(range(0, len(order), WINDOW_GROUPS)):
            groups = tuple(int(group) for group in order[first : first + WINDOW_GROUPS])
            rows = sum(self.groups[group].rows for group in groups)
            windows.append(Window(epoch, number, start, groups, rows))
            start += rows
        return windows

    def windows(self, start: int, stop: int) -> Iterator[Window]:
        """Windows that overlap positions [start, stop), across epoch borders."""
        for epoch in range(start // self.rows, -(-stop // self.rows)):
            for window in self.epoch_windows(epoch):
                if window.start < stop and window.start + window.rows > start:
                    yield window

    def window_order(self, window: Window) -> np.ndarray:
        """Order of a window's rows (int64): element i is the row, counted through its groups, at start + i."""
        return permutation(window.rows, self.seed, window.epoch, _STREAMS[self.version][1], window.number)

    def locate(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(group, row in the group) at each position of [start, stop): the definition that streams are held to."""
        places: list[tuple[int, int]] = []
        for window in self.windows(start, stop):
            flat = [(group, row) for group in window.groups for row in range(self.groups[group].rows)]
            order = self.window_order(window)
            low, high = max(start, window.start), min(stop, window.start + window.rows)
            places += [flat[order[position - window.start]] for position in range(low, high)]
        return places


def make_plan(
    manifests: Sequence[Manifest],
    splits: tuple[str, ...],
    projections: tuple[str, ...],
    seed: int,
    version: int = VERSION,
) -> Plan:
    """One plan over the selected files of one or several data sets.

    Raises:
        UserError: nothing is selected, or the version is not known.
    """
    selected = [
        (manifest.root / file.path, file) for manifest in manifests for file in manifest.select(splits, projections)
    ]
    groups = tuple(
        RowGroup(place.url, index, rows) for place, file in selected for index, rows in enumerate(file.row_groups)
    )
    if not groups:
        found = sorted({f"{file.split}/{file.projection}" for manifest in manifests for file in manifest.files})
        raise UserError(
            f"no images with splits {','.join(splits)} and views {','.join(projections)}; there are {', '.join(found)}"
        )
    files = [file for _, file in selected]
    return Plan(groups, seed, -(-sum(file.bytes for file in files) // sum(file.rows for file in files)), version)


def share_size(global_batch: int, workers: int) -> int:
    """Rows of one worker in one global batch, padding included: ⌈global_batch/workers⌉."""
    return -(-global_batch // workers)


def segment_end(position: int, total: int, global_batch: int, segment_images: int) -> int:
    """Where the segment that holds `position` ends: a whole number of global batches, fixed borders."""
    batches = max(1, segment_images // global_batch)
    length = batches * global_batch
    return min(total, (position // length + 1) * length)
