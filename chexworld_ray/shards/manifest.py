"""`manifest.json`: all that can be known of a data set without opening a Parquet file.

Each release that is ingested or appended makes a version, kept as `manifest-00001.json`, …; `manifest.json` is the
newest. Files are never changed once a version names them, so every version stays readable.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from chexworld_ray.config import from_dict
from chexworld_ray.errors import UserError
from chexworld_ray.shards.parquet import MAX_ROWS
from chexworld_ray.shards.records import EXAMPLES, FileRecord
from chexworld_ray.shards.schema import SCHEMA_VERSION, Columns
from chexworld_ray.storage import Place, exists, place, read_json, write_json
from chexworld_ray.trust import data_version, plain_name

NAME = "manifest.json"
REJECTED = "rejected.parquet"
REJECTED_SCHEMA = pa.schema(
    [
        ("source_path", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("sha256", pa.string()),
        ("release", pa.int32()),
    ]
)
_VERSION_NAME = re.compile(r"manifest(?:-\d+)?\.json")


@dataclass(frozen=True)
class Release:
    """What one ingest brought: accepted + rejected = found."""

    fingerprint: str
    found: int
    images: int
    rejected: dict[str, int]
    """By reason."""
    ignored: dict[str, int]
    """Files that were no candidates, by kind."""
    patient_rule: int = 1
    """Which of several folders named like patients was the patient: 1 the outermost, 2 the innermost."""


@dataclass(frozen=True)
class KeyRecord:
    """Under which key identifiers were hashed; the key itself is nowhere."""

    fingerprint: str
    random: bool


@dataclass(frozen=True)
class Manifest:
    """A data set at rest. `data_version` changes whenever an image, split, view or label does."""

    root: Place
    data_version: str
    files: list[FileRecord]
    columns: Columns
    releases: list[Release]
    pixel_sums: tuple[float, float, float]
    """Pixels of all images: how many, their sum, and that of their squares, on the [0, 1] scale."""
    settings: dict[str, Any] = field(repr=False)
    key: KeyRecord | None = None
    """None where no identifier was replaced by a keyed hash."""

    @property
    def version(self) -> int:
        """Number of the newest release."""
        return len(self.releases)

    @property
    def url(self) -> str:
        """The address of this version; that of the data set is its newest."""
        return (self.root / f"manifest-{self.version:05d}.json").url

    @property
    def labels(self) -> tuple[str, ...]:
        """Label columns, without their prefix."""
        return self.columns.labels

    @property
    def masks(self) -> tuple[str, ...]:
        """Mask columns, without their prefix."""
        return self.columns.masks

    @property
    def rows(self) -> int:
        """Images in all files."""
        return sum(file.rows for file in self.files)

    @property
    def grey_mean(self) -> float:
        """Mean of all pixels, on [0, 1]."""
        return self.pixel_sums[1] / max(self.pixel_sums[0], 1.0)

    @property
    def grey_std(self) -> float:
        """Standard deviation of all pixels, on [0, 1]."""
        return math.sqrt(max(self.pixel_sums[2] / max(self.pixel_sums[0], 1.0) - self.grey_mean**2, 0.0))

    @property
    def rejected(self) -> dict[str, int]:
        """Images set aside, by reason."""
        return _total(release.rejected for release in self.releases)

    def select(self, splits: tuple[str, ...], projections: tuple[str, ...]) -> list[FileRecord]:
        """Files of some splits and projections, by path: decided from the manifest alone."""
        return sorted(
            (file for file in self.files if file.split in splits and file.projection in projections),
            key=lambda file: file.path,
        )

    def counts(self) -> dict[str, Any]:
        """Images by dataset, split and view; labels by dataset, label, split and value; rejected by reason; pixels."""
        images: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        views: dict[str, int] = defaultdict(int)
        labels: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
        for file in self.files:
            views[file.projection] += file.rows
            for dataset, rows in file.datasets.items():
                images[dataset][file.split] += rows
            for dataset, names in file.labels.items():
                for name, values in names.items():
                    into = labels.setdefault(dataset, {}).setdefault(name, {}).setdefault(file.split, {})
                    for value, count in values.items():
                        into[value] = into.get(value, 0) + count
        return {
            "data_version": self.data_version,
            "version": self.version,
            "found": sum(release.found for release in self.releases),
            "images": self.rows,
            "by_dataset_and_split": {dataset: dict(splits) for dataset, splits in sorted(images.items())},
            "by_view": dict(views),
            "labels": labels,
            "masks": list(self.masks),
            "flags": _total(file.flags for file in self.files),
            "flag_examples": self.examples(),
            "pictures_checked": sum(file.rows for file in self.files if file.pictures),
            "rejected": self.rejected,
            "ignored": _total(release.ignored for release in self.releases),
            "grey_mean": self.grey_mean,
            "grey_std": self.grey_std,
            "bytes": sum(file.bytes for file in self.files),
        }

    def examples(self) -> dict[str, list[str]]:
        """Flag of the check of pictures → the first image ids that have it."""
        found: dict[str, list[str]] = {}
        for file in self.files:
            for flag, image_ids in file.examples.items():
                found[flag] = (found.get(flag, []) + image_ids)[:EXAMPLES]
        return dict(sorted(found.items()))

    def summary(self) -> dict[str, Any]:
        """What became of all that was found: accepted (images) + rejected = found."""
        counts = self.counts()
        names = ("data_version", "version", "found", "images", "rejected", "ignored", "flags")
        return {name: counts[name] for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The record that is stored."""
        return {
            "schema_version": SCHEMA_VERSION,
            "data_version": self.data_version,
            "counts": self.counts(),
            "files": [asdict(file) for file in self.files],
            "columns": asdict(self.columns),
            "releases": [asdict(release) for release in self.releases],
            "pixel_sums": list(self.pixel_sums),
            "settings": self.settings,
            "key": None if self.key is None else asdict(self.key),
        }


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items()))


def empty(root: Place, settings: dict[str, Any]) -> Manifest:
    """A data set before its first release."""
    return Manifest(root, "", [], Columns(), [], (0.0, 0.0, 0.0), settings)


def add_release(
    before: Manifest,
    release: Release,
    files: list[FileRecord],
    images: pa.Table,
    columns: Columns,
    key: KeyRecord | None,
) -> Manifest:
    """The next version: files of a release, whose kept images (records.IMAGE_SCHEMA) give the pixel statistics."""
    everything = before.files + files
    sums = (float(np.asarray(images[name]).sum()) for name in ("pixels", "pixel_sum", "pixel_squares"))
    old = before.pixel_sums
    version = hashlib.sha256("".join(sorted(file.path + file.sha256 for file in everything)).encode()).hexdigest()[:16]
    return replace(
        before,
        data_version=version,
        files=everything,
        columns=before.columns.union(columns),
        releases=[*before.releases, release],
        pixel_sums=(old[0] + next(sums), old[1] + next(sums), old[2] + next(sums)),
        key=key or before.key,
    )


def publish(manifest: Manifest) -> None:
    """Write a version, then make it the newest: from then on the data set is there."""
    record = manifest.to_dict()
    write_json(place(manifest.url), record)
    write_json(manifest.root / NAME, record)


def load(url: str) -> Manifest:
    """Read and check the manifest of a data set: the newest, or an older version by its file's URL.

    Raises:
        UserError: there is none, or it is damaged or from another schema version.
    """
    named = place(url)
    root, name = (named.parent, named.name) if _VERSION_NAME.fullmatch(named.name) else (named, NAME)
    file = root / name
    if not exists(root):
        raise UserError(f"{url}: no such data set (nothing is there)")
    if not exists(file):
        raise UserError(f"{url}: no {name} there; `chexworld ingest` writes one when it completes")
    record = read_json(file)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{file.url}: schema version {record.get('schema_version')!r}, "
            f"this program reads {SCHEMA_VERSION}; ingest again"
        )
    manifest = _from_dict(root, record, file.url)
    _check(manifest, file.url)
    return manifest


@dataclass(frozen=True)
class _Record:
    """What is stored, as far as it is read again."""

    data_version: str
    files: list[FileRecord]
    columns: Columns
    releases: list[Release]
    pixel_sums: tuple[float, float, float]
    settings: dict[str, Any]
    key: KeyRecord | None


def _from_dict(root: Place, record: dict[str, Any], url: str) -> Manifest:
    try:
        read = from_dict(_Record, record, url)
    except UserError as error:
        raise UserError(f"{error}: a damaged manifest; ingest again") from None
    return Manifest(root, **vars(read))


def _check(manifest: Manifest, url: str) -> None:
    """A manifest may be a stranger's: names lead to nothing outside of its folder, numbers are possible ones.

    Raises:
        UserError: so it is not.
    """
    data_version(manifest.data_version, url)
    pixels, *sums = manifest.pixel_sums
    if not all(math.isfinite(value) and 0 <= value <= 1.001 * pixels for value in (pixels, *sums)):
        raise UserError(f"{url}: damaged manifest: sums of pixels {manifest.pixel_sums} are not of values on [0, 1]")
    for name, count in Counter(manifest.columns.schema().names).items():
        if count > 1:
            raise UserError(f"{url}: damaged manifest: {count} columns of the name {name!r}")
    for entry in manifest.files:
        plain_name(entry.path, url)
        if not (entry.bytes > 0 and all(0 < rows <= MAX_ROWS for rows in entry.row_groups)):
            raise UserError(f"{url}: damaged manifest: {entry.path} has no, or impossible, row groups or bytes")
        if sum(entry.row_groups) != entry.rows:
            raise UserError(f"{url}: damaged manifest: the row groups of {entry.path} do not add up to its rows")
