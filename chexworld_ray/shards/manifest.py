"""`manifest.json`: all that can be known of a data set without opening a Parquet file."""

import hashlib
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import SCHEMA_VERSION, Columns
from chexworld_ray.shards.writer import ChunkRecord, FileRecord, WriteSettings
from chexworld_ray.storage import Place, exists, place, read_json

NAME = "manifest.json"
REJECTED = "rejected.parquet"


@dataclass(frozen=True)
class Manifest:
    """A data set at rest. `data_version` changes whenever an image, split, view or label does."""

    root: Place
    data_version: str
    files: list[FileRecord]
    labels: tuple[str, ...]
    masks: tuple[str, ...]
    grey_mean: float
    grey_std: float
    rejected: dict[str, int]
    settings: dict[str, Any]
    fingerprint: str

    @property
    def rows(self) -> int:
        """Images in all files."""
        return sum(file.rows for file in self.files)

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
            "images": self.rows,
            "by_dataset_and_split": {dataset: dict(splits) for dataset, splits in sorted(images.items())},
            "by_view": dict(views),
            "labels": labels,
            "masks": list(self.masks),
            "rejected": self.rejected,
            "grey_mean": self.grey_mean,
            "grey_std": self.grey_std,
            "bytes": sum(file.bytes for file in self.files),
        }

    def to_dict(self) -> dict[str, Any]:
        """The record that is stored."""
        return {
            "schema_version": SCHEMA_VERSION,
            "data_version": self.data_version,
            "counts": self.counts(),
            "files": [asdict(file) for file in self.files],
            "labels": list(self.labels),
            "masks": list(self.masks),
            "grey_mean": self.grey_mean,
            "grey_std": self.grey_std,
            "rejected": self.rejected,
            "settings": self.settings,
            "fingerprint": self.fingerprint,
        }


def from_records(
    root: Place,
    records: list[ChunkRecord],
    files: list[FileRecord],
    columns: Columns,
    rejected: list[dict[str, str]],
    settings: WriteSettings,
    fingerprint: str,
) -> Manifest:
    """The manifest of what was written."""
    count, total, squares = (sum(record.pixel_sums[i] for record in records) for i in range(3))
    mean = total / max(count, 1.0)
    std = math.sqrt(max(squares / max(count, 1.0) - mean * mean, 0.0))
    reasons: dict[str, int] = {}
    for row in rejected:
        kind = row["reason"].split(":")[0]
        reasons[kind] = reasons.get(kind, 0) + 1
    version = hashlib.sha256("".join(sorted(file.path + file.sha256 for file in files)).encode()).hexdigest()[:16]
    return Manifest(
        root, version, files, columns.labels, columns.masks, mean, std, reasons, asdict(settings), fingerprint
    )


def load(url: str) -> Manifest:
    """Read and check the manifest of a data set.

    Raises:
        UserError: there is none, or it is damaged or from another schema version.
    """
    root = place(url)
    file = root / NAME
    if not exists(root):
        raise UserError(f"{url}: no such data set (nothing is there)")
    if not exists(file):
        raise UserError(f"{url}: no {NAME} there; `chexworld ingest` writes one when it completes")
    record = read_json(file)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{file.url}: schema version {record.get('schema_version')!r}, "
            f"this program reads {SCHEMA_VERSION}; ingest again"
        )
    try:
        manifest = Manifest(
            root,
            record["data_version"],
            [FileRecord(**entry) for entry in record["files"]],
            tuple(record["labels"]),
            tuple(record["masks"]),
            float(record["grey_mean"]),
            float(record["grey_std"]),
            dict(record["rejected"]),
            dict(record["settings"]),
            str(record["fingerprint"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file.url}: damaged manifest ({type(error).__name__}: {error}); ingest again") from None
    for entry in manifest.files:
        if sum(entry.row_groups) != entry.rows:
            raise UserError(f"{file.url}: damaged manifest: the row groups of {entry.path} do not add up to its rows")
    return manifest
