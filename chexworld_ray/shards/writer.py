"""One chunk of source rows → Parquet files and a record of what was written and what was set aside.

A chunk is the unit of work and of resuming: a pure function of its rows, so it can run anywhere, and
again. Rows that share split and projection go to one file.
"""

import hashlib
import io
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chexworld_ray.hashing import uniform
from chexworld_ray.shards import clean
from chexworld_ray.shards.decode import (
    Rejected,
    decode_file,
    decode_mask,
    encode_grey_jpeg,
    encode_mask,
)
from chexworld_ray.shards.geometry import Geometry
from chexworld_ray.shards.parquet import read_table
from chexworld_ray.shards.schema import Columns, SourceRow, canonical_view, projection
from chexworld_ray.storage import Place, fetch, write_bytes


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """What the pixels and the files of a data set depend on."""

    longest_side: int = 512
    jpeg_quality: int = 95
    crop_borders: bool = True
    row_group_images: int = 128
    file_images: int = 1536
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0


@dataclass
class FileRecord:
    """One Parquet file, as the manifest knows it."""

    path: str
    bytes: int
    rows: int
    row_groups: list[int]
    split: str
    projection: str
    sha256: str
    datasets: dict[str, int] = field(default_factory=dict)
    labels: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """dataset → label → value → count."""


@dataclass
class ChunkRecord:
    """What became of a chunk."""

    files: list[FileRecord]
    images: list[dict[str, str]]
    """image_id, sha256, dataset, patient_id, split and file of every kept row."""
    rejected: list[dict[str, str]]
    pixel_sums: tuple[float, float, float]
    """Number of pixels, sum and sum of squares on the [0, 1] scale."""

    def to_dict(self) -> dict[str, Any]:
        """Plain record for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "ChunkRecord":
        """The inverse of to_dict."""
        files = [FileRecord(**file) for file in record["files"]]
        return cls(files, record["images"], record["rejected"], tuple(record["pixel_sums"]))


def split_of(patient_id: str, settings: WriteSettings) -> str:
    """train, val or test by a hash of the patient."""
    key = int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:8], "big")
    draw = float(uniform(settings.seed, np.uint64(key)))  # type: ignore[arg-type]
    if draw < settings.test_fraction:
        return "test"
    return "val" if draw < settings.test_fraction + settings.val_fraction else "train"


def write_chunk(
    index: int, rows: list[SourceRow], columns: Columns, settings: WriteSettings, out: Place
) -> ChunkRecord:
    """Decode, clean and write the rows of one chunk; a bad file is recorded, never fatal."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    rejected: list[dict[str, str]] = []
    sums = np.zeros(3)
    for row in rows:
        try:
            record, row_sums = shard_row(row, columns, settings)
        except Rejected as reason:
            rejected.append({"image_id": row.image_id, "source_path": row.path.url, "reason": str(reason)})
            continue
        sums += row_sums
        groups[record["split"], projection(record["view"])].append(record)
    files, images = [], []
    for (split, view), records in sorted(groups.items()):
        name = f"{split}-{view}-{index:05d}.parquet"
        table = pa.Table.from_pylist(records, schema=columns.schema())
        files.append(write_file(out, name, table, split, view, settings.row_group_images))
        keys = ("image_id", "sha256", "dataset", "patient_id", "split")
        images += [{key: record[key] for key in keys} | {"file": name} for record in records]
    return ChunkRecord(files, images, rejected, (float(sums[0]), float(sums[1]), float(sums[2])))


def shard_row(row: SourceRow, columns: Columns, settings: WriteSettings) -> tuple[dict[str, Any], np.ndarray]:
    """One row of the schema, and its pixel sums.

    Raises:
        Rejected: the file can't become a radiograph.
    """
    data = _fetch(row.path)
    decoded = decode_file(data)
    clean.check(decoded.pixels_HW)
    height, width = decoded.pixels_HW.shape
    crop = clean.content_box(decoded.pixels_HW) if settings.crop_borders else (0, 0, height, width)
    geometry = Geometry.plan(decoded.orientation, (height, width), crop, settings.longest_side)
    pixels_HW = geometry.image(decoded.pixels_HW)
    patient_id = row.patient_id or decoded.patient_id or row.image_id
    record: dict[str, Any] = {
        "image_id": row.image_id,
        "image": encode_grey_jpeg(pixels_HW, settings.jpeg_quality),
        "height": pixels_HW.shape[0],
        "width": pixels_HW.shape[1],
        "dataset": row.dataset,
        "patient_id": patient_id,
        "study_id": row.study_id or decoded.study_id,
        "view": canonical_view(row.view or decoded.view),
        "split": row.split or split_of(patient_id, settings),
        "source_path": row.path.url,
        "sha256": hashlib.sha256(data).hexdigest(),
        "boxes": [geometry.box(box) for box in row.boxes],
        "landmarks": [geometry.landmark(landmark) for landmark in row.landmarks],
        "flags": decoded.flags + (["border_cropped"] if crop != (0, 0, height, width) else []),
    }
    for organ in columns.masks:
        mask = row.masks.get(organ)
        record[f"mask_{organ}"] = encode_mask(geometry.mask(decode_mask(_fetch(mask)))) if mask else None
    record |= {f"label_{name}": row.labels.get(name) for name in columns.labels}
    record |= {f"meta_{name}": row.meta.get(name) for name, _ in columns.meta}
    values = pixels_HW.astype(np.float64) / 255.0
    return record, np.array([values.size, values.sum(), np.square(values).sum()])


def _fetch(file: Place) -> bytes:
    try:
        return fetch(file)
    except (OSError, ValueError) as error:
        raise Rejected(f"can't be read: {type(error).__name__}: {error}") from None


def write_file(out: Place, name: str, table: pa.Table, split: str, view: str, row_group_images: int) -> FileRecord:
    """Write one Parquet file, whole or not at all; images are JPEGs already, so they are not compressed again."""
    buffer = io.BytesIO()
    raw = [field.name for field in table.schema if pa.types.is_binary(field.type)]
    compression = {field.name: "none" if field.name in raw else "zstd" for field in table.schema}
    size = -(-table.num_rows // -(-table.num_rows // row_group_images))  # balanced: no tiny last row group
    pq.write_table(
        table,
        buffer,
        row_group_size=size,
        compression=compression,  # pyright: ignore[reportArgumentType]
        use_dictionary=["dataset", "split", "view"],  # pyright: ignore[reportArgumentType]
    )
    data = buffer.getvalue()
    write_bytes(out / name, data)
    groups = [min(size, table.num_rows - start) for start in range(0, table.num_rows, size)]
    digest = hashlib.sha256(data).hexdigest()
    datasets, labels = _counts(table)
    return FileRecord(name, len(data), table.num_rows, groups, split, view, digest, datasets, labels)


def drop_rows(out: Place, record: FileRecord, image_ids: set[str], row_group_images: int) -> FileRecord | None:
    """Rewrite a file without some rows; None where nothing is left (the file is removed)."""
    table = read_table(out / record.path)
    keep = [image_id not in image_ids for image_id in table["image_id"].to_pylist()]
    if not any(keep):
        out.fs.rm_file((out / record.path).path)
        return None
    return write_file(out, record.path, table.filter(pa.array(keep)), record.split, record.projection, row_group_images)


def _counts(table: pa.Table) -> tuple[dict[str, int], dict[str, dict[str, dict[str, int]]]]:
    datasets: dict[str, int] = defaultdict(int)
    labels: dict[str, dict[str, dict[str, int]]] = {}
    names = [name for name in table.column_names if name.startswith("label_")]
    of_row = table["dataset"].to_pylist()
    for dataset in of_row:
        datasets[dataset] += 1
    for name in names:
        for dataset, value in zip(of_row, table[name].to_pylist(), strict=True):
            key = "unknown" if value is None else f"{value:g}"
            counts = labels.setdefault(dataset, {}).setdefault(name.removeprefix("label_"), {})
            counts[key] = counts.get(key, 0) + 1
    return dict(datasets), labels
