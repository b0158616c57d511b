"""What a chunk leaves behind: its files, its rejects, and one line for each image it kept."""

import json
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from chexworld_ray.errors import UserError
from chexworld_ray.shards.parquet import read_table, write_table
from chexworld_ray.shards.source import Reject
from chexworld_ray.storage import Place
from chexworld_ray.trust import plain_name

EXAMPLES = 3  # image ids of each flag of the check of pictures, for whoever wants to look at them
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
    pictures: int = 0
    """Version of the check of pictures (`picture.VERSION`) that its rows went through; 0: none."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Flag of that check → the first image ids that have it."""


@dataclass(frozen=True)
class ChunkRecord:
    """What became of a chunk."""

    files: list[FileRecord]
    rejected: list[Reject]
    keyed: int
    """Images whose identifiers were replaced by keyed hashes; rejects, whose paths alone are, do not count."""
    images: pa.Table
    """IMAGE_SCHEMA, one row for each image that was kept."""
    seconds: dict[str, float]
    """Where the time went: read, hash, decode, clean, resize, encode, write."""


def save_record(place: Place, record: ChunkRecord) -> None:
    """Write a record as one Parquet file, whole or not at all."""
    head = {
        "files": [asdict(file) for file in record.files],
        "rejected": [asdict(reject) for reject in record.rejected],
        "keyed": record.keyed,
    }
    pairs = {"record": json.dumps(head), "seconds": json.dumps(record.seconds)}
    write_table(place, record.images.replace_schema_metadata(pairs))


def load_record(place: Place) -> ChunkRecord:
    """The inverse of `save_record`.

    Raises:
        UserError: it is damaged.
    """
    table = read_table(place, IMAGE_SCHEMA)
    pairs = table.schema.metadata or {}
    try:
        head = json.loads(pairs[b"record"])
        files = [FileRecord(**file) for file in head["files"]]
        for file in files:
            plain_name(file.path, place.url)
        rejected = [Reject(**reject) for reject in head["rejected"]]
        seconds = json.loads(pairs[b"seconds"])
        return ChunkRecord(files, rejected, head["keyed"], table.replace_schema_metadata(None), seconds)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{place.url}: damaged ({type(error).__name__}); remove it, and ingest again") from None
