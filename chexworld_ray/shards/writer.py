"""One chunk of source rows → Parquet files and a record of what was written and what was set aside.

A chunk is the unit of work and of resuming: a pure function of its rows, so it can run anywhere, and
again. Rows that share split and projection go to one file.
"""

import hashlib
import io
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chexworld_ray.errors import UserError
from chexworld_ray.regular_files import UnfitFile
from chexworld_ray.shards.formats import surely_no_dicom
from chexworld_ray.shards.identify import rejected_row
from chexworld_ray.shards.identity import Pseudonyms
from chexworld_ray.shards.parquet import read_table
from chexworld_ray.shards.picture import FLAGS, VERSION
from chexworld_ray.shards.records import EXAMPLES, IMAGE_SCHEMA, ChunkRecord, FileRecord
from chexworld_ray.shards.rejected import Rejected, largest_file
from chexworld_ray.shards.row import Stopwatch, shard_row
from chexworld_ray.shards.schema import OPTIONAL, Columns, every_column, projection
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Reject, SourceRow, named_like_picture
from chexworld_ray.storage import Place, exists, fetch, remove, write_bytes
from chexworld_ray.trust import resolve

SHARD_NAME = re.compile(r"[\w.-]+-(?:frontal|lateral|unknown)-\d{2,}-\d{5,}\.parquet")
READ_AHEAD = 8  # files that are fetched while others are decoded: object stores answer late, not slowly


def write_chunk(
    name: str,
    rows: Sequence[SourceRow],
    root: Place,
    columns: Columns,
    settings: WriteSettings,
    key: Pseudonyms,
    out: Place,
    allowed: Sequence[str] = (),
) -> ChunkRecord:
    """Decode, clean and write the rows of one chunk; a bad file is recorded, never fatal. Paths of rows lead below
    `root` or `allowed`.

    Raises:
        UserError: the storage can't be reached or refuses altogether.
    """
    groups: dict[tuple[str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = defaultdict(list)
    rejected: list[Reject] = []
    watch = Stopwatch()
    reading_seconds: list[float] = []  # processor time of the threads that read

    def read(path: str) -> bytes:
        began = time.thread_time()
        try:
            return _read(root, path, allowed, largest_file(settings.clean.max_megapixels))
        finally:
            reading_seconds.append(time.thread_time() - began)

    for row, reading in _ahead(rows, read):
        data = None
        try:
            with watch.on("wait"):
                data = reading.result()
            record, image = shard_row(row, data, read, columns, settings, key, watch)
        except Rejected as reason:
            rejected.append(_reject(row, data, reason, key, settings))
            continue
        groups[record["split"], projection(record["view"])].append((record, image))
    files, kept = [], []
    checked = VERSION if settings.check_pictures else 0
    for (split, view), pairs in sorted(groups.items()):
        path = f"{split}-{view}-{name}.parquet"
        with watch.on("write"):
            table = pa.Table.from_pylist([record for record, _ in pairs], schema=columns.schema())
            files.append(write_file(out, path, table, split, view, settings.row_group_images, checked))
        kept += [image | {"file": path} for _, image in pairs]
    # rejects don't count: a key is there to keep patients the same from release to release
    keyed = sum(image.pop("keyed") for image in kept)
    watch.add({"read": sum(reading_seconds)})
    return ChunkRecord(files, rejected, keyed, pa.Table.from_pylist(kept, schema=IMAGE_SCHEMA), {**watch.seconds})


def _reject(row: SourceRow, data: bytes | None, reason: Rejected, key: Pseudonyms, settings: WriteSettings) -> Reject:
    """A row whose file can't be used. What no decoder has read may be a DICOM file, which its path may name."""
    known = named_like_picture(row.path) or (data is not None and surely_no_dicom(data))
    digest = None if data is None else hashlib.sha256(data).hexdigest()
    dicom = reason.header is not None or not known
    return rejected_row(row, dicom, (reason.reason, reason.detail), digest, key, settings)


def _read(root: Place, path: str, allowed: Sequence[str], limit: int) -> bytes:
    try:
        file = resolve(root, path, allowed)
    except UserError:
        raise Rejected("outside the folder", "no --allow-prefix names it") from None
    try:
        return fetch(file, limit)
    except UnfitFile as error:
        raise Rejected(error.reason, error.detail) from None
    except FileNotFoundError:
        raise Rejected("missing file") from None
    except MemoryError:
        raise Rejected("too large", "no memory to read it") from None
    except PermissionError as error:
        exists(root)  # raises where the credentials are at fault, not this file
        raise Rejected("can't be read", type(error).__name__) from None
    except (OSError, ValueError) as error:
        raise Rejected("can't be read", type(error).__name__) from None


def _ahead(rows: Sequence[SourceRow], read: Callable[[str], bytes]) -> Iterator[tuple[SourceRow, "Future[bytes]"]]:
    """Rows in order, their files fetched by threads up to READ_AHEAD before they are asked for."""
    waiting: deque[tuple[SourceRow, Future[bytes]]] = deque()
    with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="read") as pool:
        for row in rows:
            waiting.append((row, pool.submit(read, row.path)))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft()
        yield from waiting


def write_file(
    out: Place, name: str, table: pa.Table, split: str, view: str, row_group_images: int, pictures: int = 0
) -> FileRecord:
    """Write one Parquet file, whole or not at all; images are JPEGs already, so they are not compressed again.

    `pictures` is the version of the check of pictures that the rows went through.
    """
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
    datasets, labels, flags = table_counts(table)
    counts = (datasets, labels, flags, pictures, _examples(table))
    return FileRecord(name, len(data), table.num_rows, groups, split, view, digest, *counts)


def drop_rows(out: Place, record: FileRecord, image_ids: set[str], row_group_images: int) -> FileRecord | None:
    """Rewrite a file without some rows; None where nothing is left (the file is removed).

    Done again after an interruption it ends the same.
    """
    file = out / record.path
    if not exists(file):
        return None
    table = read_table(file, every_column, OPTIONAL)
    keep = [image_id not in image_ids for image_id in table["image_id"].to_pylist()]
    if not any(keep):
        remove(file)
        return None
    kept = table.filter(pa.array(keep))
    return write_file(out, record.path, kept, record.split, record.projection, row_group_images, record.pictures)


def table_counts(
    table: pa.Table,
) -> tuple[dict[str, int], dict[str, dict[str, dict[str, int]]], dict[str, int]]:
    """Images by dataset; by dataset, label and value; and by flag."""
    labels: dict[str, dict[str, dict[str, int]]] = {}
    of_row = table["dataset"].to_pylist()
    for name in (name for name in table.column_names if name.startswith("label_")):
        for dataset, value in zip(of_row, table[name].to_pylist(), strict=True):
            key = "unknown" if value is None else f"{value:g}"
            counts = labels.setdefault(dataset, {}).setdefault(name.removeprefix("label_"), {})
            counts[key] = counts.get(key, 0) + 1
    flags = Counter(flag for of_image in table["flags"].to_pylist() for flag in of_image or ())
    return dict(Counter(of_row)), labels, dict(sorted(flags.items()))


def _examples(table: pa.Table) -> dict[str, list[str]]:
    """Flag of the check of pictures → the first images that have it."""
    found: dict[str, list[str]] = {}
    for image_id, flags in zip(table["image_id"].to_pylist(), table["flags"].to_pylist(), strict=True):
        for flag in flags or ():
            if flag in FLAGS and len(found.setdefault(flag, [])) < EXAMPLES:
                found[flag].append(image_id)
    return dict(sorted(found.items()))
