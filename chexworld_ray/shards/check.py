"""Does a data set hold what its manifest says? Files by hash, rows by count, images by decoding, patients by split."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from chexworld_ray.errors import UserError
from chexworld_ray.shards.decode import DamagedImage, decode_grey_jpeg
from chexworld_ray.shards.ingest import leaking_patients
from chexworld_ray.shards.manifest import REJECTED, REJECTED_SCHEMA, Manifest
from chexworld_ray.shards.masks import decode_mask
from chexworld_ray.shards.parquet import parse_table, read_table
from chexworld_ray.shards.records import FileRecord
from chexworld_ray.shards.schema import OPTIONAL, every_column, projection
from chexworld_ray.shards.writer import table_counts
from chexworld_ray.storage import Place, StorageError, fetch

KEYS = ("image_id", "dataset", "patient_id", "split")


def problems(manifest: Manifest) -> list[str]:
    """All that is wrong, one line each; empty where the data set is sound. A file for each core is read at a time.

    Raises:
        StorageError: the store can't be reached.
    """
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="check") as pool:
        checked = list(pool.map(lambda record: _check_file(manifest.root / record.path, record), manifest.files))
    found = [line for lines, _ in checked for line in lines]
    tables = [table for _, table in checked if table is not None]
    if tables:
        everyone = pa.concat_tables(tables)
        found += [
            f"a patient stands in more than one split: images {one!r} and {other!r}"
            for one, other in leaking_patients(everyone)
        ]
        ids = Counter(everyone["image_id"].to_pylist())
        found += [f"image id {name!r} stands in {count} rows" for name, count in sorted(ids.items()) if count > 1]
    return found + list(_check_rejected(manifest))


def _check_rejected(manifest: Manifest) -> Iterator[str]:
    try:
        table = read_table(manifest.root / REJECTED, REJECTED_SCHEMA, ("sha256",))
    except StorageError:
        raise
    except UserError as error:
        yield f"{REJECTED}: can't be used ({error})"
        return
    for number, release in enumerate(manifest.releases, start=1):
        reasons = table.filter(pc.field("release") == number)["reason"].to_pylist()
        if dict(Counter(reasons)) != release.rejected:
            yield f"{REJECTED}: release {number} has {len(reasons)} rows, the manifest counts {release.rejected}"
        if release.images + sum(release.rejected.values()) != release.found:
            yield f"release {number}: accepted {release.images} and rejected are not the {release.found} found"
    images = sum(release.images for release in manifest.releases)
    if images != manifest.rows:
        yield f"the releases brought {images} images, the files have {manifest.rows}"


def _check_file(file: Place, record: FileRecord) -> tuple[list[str], pa.Table | None]:
    """What is wrong with a file, and who stands in it."""
    try:
        data = fetch(file)
    except FileNotFoundError:
        return [f"{record.path}: missing"], None
    except StorageError:
        raise
    except (UserError, OSError) as error:
        return [f"{record.path}: can't be read ({getattr(error, 'strerror', None) or error})"], None
    if len(data) != record.bytes or hashlib.sha256(data).hexdigest() != record.sha256:
        return [f"{record.path}: not the bytes that were written ({len(data)} of {record.bytes})"], None
    try:
        table, groups = parse_table(data, record.path, every_column, OPTIONAL)
    except UserError as error:
        return [str(error)], None
    wrong = []
    if groups != record.row_groups:
        wrong.append(f"row groups of {groups} rows, the manifest says {record.row_groups}")
    if table_counts(table) != (record.datasets, record.labels, record.flags):
        wrong.append("data sets, labels or flags are not those that the manifest counts")
    if set(table["split"].to_pylist()) != {record.split}:
        wrong.append(f"rows of other splits than {record.split}")
    if {projection(view) for view in table["view"].to_pylist()} != {record.projection}:
        wrong.append(f"rows of other views than {record.projection}")
    return [f"{record.path}: {line}" for line in [*wrong, *_check_rows(table)]], table.select(list(KEYS))


def _check_rows(table: pa.Table) -> Iterator[str]:
    masks = [name for name in table.column_names if name.startswith("mask_")]
    for row in table.select(["image_id", "image", "height", "width", *masks]).to_pylist():
        size = (row["height"], row["width"])
        try:
            if decode_grey_jpeg(row["image"]).shape != size:
                yield f"image {row['image_id']!r} is not {size[0]} x {size[1]} pixels"
        except DamagedImage as error:
            yield f"image {row['image_id']!r} can't be decoded: {error.detail}"
        for name in masks:
            try:
                if row[name] is not None and decode_mask(row[name]).shape != size:
                    yield f"{name} of image {row['image_id']!r} is not {size[0]} x {size[1]} pixels"
            except DamagedImage as error:
                yield f"{name} of image {row['image_id']!r} can't be decoded: {error.detail}"
