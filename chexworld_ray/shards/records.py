"""What a chunk leaves behind: its files, its rejects, and one line for each image it kept."""

import io
import json
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from chexworld_ray.shards.source import Reject
from chexworld_ray.storage import Place, fetch, write_bytes

IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("sha256", pa.string()),
        ("phash", pa.binary()),
        ("dataset", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("source_path", pa.string()),
        ("file", pa.string()),
        ("pixels", pa.int64()),  # how many, and the sum of them and of their squares on the [0, 1] scale
        ("pixel_sum", pa.float64()),
        ("pixel_squares", pa.float64()),
    ]
)


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
    flags: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ChunkRecord:
    """What became of a chunk."""

    files: list[FileRecord]
    rejected: list[Reject]
    keyed: int
    """Images whose identifiers were replaced by keyed hashes."""
    images: pa.Table
    """IMAGE_SCHEMA, one row for each image that was kept."""
    seconds: dict[str, float]
    """Where the time went: read, hash, decode, clean, resize, encode, write."""


def save_record(place: Place, record: ChunkRecord) -> None:
    """Write a record as one Arrow file, whole or not at all."""
    head = {
        "files": [asdict(file) for file in record.files],
        "rejected": [asdict(reject) for reject in record.rejected],
        "keyed": record.keyed,
    }
    table = record.images.replace_schema_metadata({"record": json.dumps(head), "seconds": json.dumps(record.seconds)})
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    write_bytes(place, buffer.getvalue())


def load_record(place: Place) -> ChunkRecord:
    """The inverse of `save_record`."""
    table = pa.ipc.open_file(fetch(place)).read_all()
    metadata = table.schema.metadata
    head = json.loads(metadata[b"record"])
    return ChunkRecord(
        [FileRecord(**file) for file in head["files"]],
        [Reject(**reject) for reject in head["rejected"]],
        head["keyed"],
        table.replace_schema_metadata(None),
        json.loads(metadata[b"seconds"]),
    )
