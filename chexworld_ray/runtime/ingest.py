"""Ray Data runs the chunks of an ingest; this file resumes, gathers and publishes."""

from collections.abc import Iterator
from typing import Any

import cloudpickle
import pyarrow as pa

from chexworld_ray import storage
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.cluster import connect, say
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.ingest import (
    Chunk,
    check_header_patients,
    check_patients,
    find_duplicates,
    fingerprint,
    make_chunks,
)
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.parquet import write_table
from chexworld_ray.shards.schema import Columns, Source
from chexworld_ray.shards.writer import ChunkRecord, FileRecord, WriteSettings, drop_rows, write_chunk

WORK = "_ingest"  # records of finished chunks, until the manifest is there


def ingest(source: Source, missing: list[dict[str, str]], out_url: str, settings: WriteSettings) -> Manifest:
    """Write a data set below `out_url`; interrupted, the same call goes on where it stopped.

    Raises:
        UserError: another data set is there, a patient stands in two splits, or nothing could be read.
    """
    out = storage.place(out_url)
    check_patients(source)
    chunks = make_chunks(source, settings)
    mark = fingerprint(chunks)
    if storage.exists(out / manifests.NAME):
        present = manifests.load(out_url)
        if present.fingerprint == mark:
            say(f"{out_url} is complete already ({present.rows} images)")
            return present
        raise UserError(f"{out_url}: another data set is there; choose another --out, or remove it first")
    records = _run(chunks, source.columns, settings, out)
    check_header_patients(records)
    files, duplicates = _drop_duplicates(records, settings, out)
    rejected = missing + [row for record in records for row in record.rejected] + duplicates
    if not files:
        reasons = sorted({row["reason"] for row in rejected})
        raise UserError(f"none of the {len(rejected)} images could be used: {'; '.join(reasons[:3])}")
    result = manifests.from_records(out, records, files, source.columns, rejected, settings, mark)
    _write_rejected(out, rejected)
    storage.write_json(out / manifests.NAME, result.to_dict())
    out.fs.rm((out / WORK).path, recursive=True)
    return result


def _record_file(out: storage.Place, chunk: Chunk) -> storage.Place:
    return out / WORK / f"{chunk.index:05d}-{chunk.fingerprint[:16]}.json"


def _run(chunks: list[Chunk], columns: Columns, settings: WriteSettings, out: storage.Place) -> list[ChunkRecord]:
    done = {file.name for file in storage.children(out / WORK)}
    due = [chunk for chunk in chunks if _record_file(out, chunk).name not in done]
    if len(due) < len(chunks):
        say(f"{len(chunks) - len(due)} of {len(chunks)} chunks were done before; going on with the rest")
    if due:
        connect()
        finished = len(chunks) - len(due)
        for index in _stream(due, columns, settings, out):
            finished += 1
            say(f"chunk {finished} of {len(chunks)} (number {index}) written")
    return [ChunkRecord.from_dict(storage.read_json(_record_file(out, chunk))) for chunk in chunks]


def _stream(due: list[Chunk], columns: Columns, settings: WriteSettings, out: storage.Place) -> Iterator[int]:
    import ray.data

    def work(batch: dict[str, Any]) -> dict[str, list[int]]:
        chunk: Chunk = cloudpickle.loads(batch["chunk"][0])
        record = write_chunk(chunk.index, chunk.rows, columns, settings, out)
        storage.write_json(_record_file(out, chunk), record.to_dict())
        return {"index": [chunk.index]}

    blocks = [pa.table({"chunk": pa.array([cloudpickle.dumps(chunk)], pa.large_binary())}) for chunk in due]
    rows = ray.data.from_arrow(blocks).map_batches(work, batch_size=None)  # type: ignore[arg-type]
    for row in rows.iter_rows():
        yield int(row["index"])


def _drop_duplicates(
    records: list[ChunkRecord], settings: WriteSettings, out: storage.Place
) -> tuple[list[FileRecord], list[dict[str, str]]]:
    drops = find_duplicates(records)
    files: list[FileRecord] = []
    for file in (file for record in records for file in record.files):
        if file.path in drops:
            rewritten = drop_rows(out, file, set(drops[file.path]), settings.row_group_images)
            files += [rewritten] if rewritten else []
        else:
            files.append(file)
    rejected = [
        {"image_id": dropped, "source_path": "", "reason": f"duplicate of: {kept}"}
        for images in drops.values()
        for dropped, kept in sorted(images.items())
    ]
    return files, rejected


def _write_rejected(out: storage.Place, rejected: list[dict[str, str]]) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("image_id", "source_path", "reason")])
    write_table(out / manifests.REJECTED, pa.Table.from_pylist(rejected, schema=schema))
