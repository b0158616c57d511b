"""Ray Data runs the chunks of an ingest; this file resumes, gathers and publishes."""

from collections import Counter
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from chexworld_ray import storage
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.chunks import chunk_work, run_chunks, what_to_mend
from chexworld_ray.runtime.cluster import connect, say
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.duplicates import Duplicate
from chexworld_ray.shards.identify import hides_path, rejected_aside
from chexworld_ray.shards.identity import KEY_VARIABLE
from chexworld_ray.shards.ingest import (
    PATIENT_RULE,
    Chunk,
    check_patient_folders,
    check_patient_rule,
    check_patients,
    check_settings,
    crowded_patients,
    fingerprint,
    make_chunks,
    settle,
    why_another,
)
from chexworld_ray.shards.keys import NO_KEY, IngestKey, ingest_key
from chexworld_ray.shards.lock import locked
from chexworld_ray.shards.manifest import KeyRecord, Manifest, Release
from chexworld_ray.shards.parquet import read_table, write_table
from chexworld_ray.shards.reader import read_images
from chexworld_ray.shards.records import IMAGE_SCHEMA, ChunkRecord, FileRecord, load_record
from chexworld_ray.shards.row import Stopwatch
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Reject, Source
from chexworld_ray.shards.writer import SHARD_NAME, drop_rows

WORK = "_ingest"  # lock and records of finished chunks, until the manifest is there
STATE, RECORD = "ingest.json", ".record.parquet"


def ingest(
    source: Source, out_url: str, settings: WriteSettings, append: bool = False, watch: Stopwatch | None = None
) -> Manifest:
    """Write a data set below `out_url`, or add a release to it; interrupted, the same call goes on where it stopped.

    `watch` is told what the workers spent their time on.

    Raises:
        UserError: another data set is there, another ingest runs there, a patient stands in two splits, a column is
            read otherwise than before, identifiers were hashed with another key, a disk is full, or nothing could be
            read.
    """
    try:
        return _ingest(source, out_url, settings, append, watch)
    except Exception as error:
        raise what_to_mend(error) or error from None


def _ingest(source: Source, out_url: str, settings: WriteSettings, append: bool, watch: Stopwatch | None) -> Manifest:
    out = storage.place(out_url)
    check_patients(source)
    check_patient_folders(source)
    chunks = make_chunks(source, settings)
    mark = fingerprint(chunks)
    before = _before(out, source, settings, append, mark)
    if mark in [release.fingerprint for release in before.releases]:
        say(f"{out_url} is complete already ({before.rows} images)")
        storage.remove(out / WORK)
        return before
    check_patient_rule(source, before.releases, out_url)
    before.columns.union(source.columns)  # is refused before there is work to lose
    with locked(out / WORK) as lock:
        if _before(out, source, settings, append, mark).data_version != before.data_version:
            raise UserError(f"{out_url}: another ingest has just completed there; start again")
        key = _key(out, before)
        records = _run(chunks, source, settings, key, before.version + 1, out)
        if watch is not None:
            for record in records:
                watch.add(record.seconds)
        lock.check()
        result = _publish(before, records, source, settings, mark, key)
        lock.stop()
        storage.remove(out / WORK)
    key.forget()
    return result


def _before(out: storage.Place, source: Source, settings: WriteSettings, append: bool, mark: str) -> Manifest:
    """What is there already.

    Raises:
        UserError: it is not to be added to, or was made with other settings; or there is nothing to add to.
    """
    if not storage.exists(out / manifests.NAME):
        if append:
            raise UserError(f"--append: no data set at {out.url} yet; leave --append out for the first release")
        return manifests.empty(out, settings.of_data())
    before = manifests.load(out.url)
    if mark in [release.fingerprint for release in before.releases]:
        return before
    if not append:
        told = ", ".join(filter(None, ["another data set is there", why_another(before, source, settings)]))
        raise UserError(f"{out.url}: {told}; add to it with --append, or choose another --out")
    check_settings(before, settings)
    return before


def _key(out: storage.Place, before: Manifest) -> IngestKey:
    """The key of this ingest; must be that of the releases before, and of an interrupted start.

    Raises:
        UserError: it is another one.
    """
    key = ingest_key(out.url)
    mine = key.pseudonyms.fingerprint
    if before.key is not None and before.key.fingerprint != mine:
        key.forget()
        told = f"a key with fingerprint {before.key.fingerprint}, not with this one ({mine}); set {KEY_VARIABLE} to it"
        if before.key.random:
            told = f"a random key that was not kept, so nothing can be added; ingest all again with {KEY_VARIABLE} set"
        raise UserError(f"{out.url}: identifiers there were hashed with {told}")
    state = out / WORK / STATE
    if storage.exists(state):
        started = storage.read_json(state).get("key")
        if started != mine and any(load_record(file).keyed for file in _record_files(out)):
            raise UserError(
                f"{out.url}: the interrupted ingest hashed identifiers with another key (fingerprint {started}, this "
                f"one {mine}); set {KEY_VARIABLE} to it, or remove {(out / WORK).url} and begin again"
            )
    storage.write_json(state, {"key": mine})
    if key.note:
        say(key.note)
    return key


def _record_files(out: storage.Place) -> list[storage.Place]:
    return [file for file in storage.children(out / WORK) if file.name.endswith(RECORD)]


def _run(
    chunks: list[Chunk], source: Source, settings: WriteSettings, key: IngestKey, release: int, out: storage.Place
) -> list[ChunkRecord]:
    """Records of all chunks; those that were finished before are not done again."""
    names = {chunk.index: f"{release:02d}-{chunk.index:05d}" for chunk in chunks}
    files = {chunk.index: out / WORK / f"{names[chunk.index]}-{chunk.fingerprint[:16]}{RECORD}" for chunk in chunks}
    shards = {file.name for file in storage.children(out)}
    written = {file.name for file in _record_files(out)}
    finished = {index: load_record(file) for index, file in files.items() if file.name in written}
    done = {index: one for index, one in finished.items() if all(part.path in shards for part in one.files)}
    due = [chunk for chunk in chunks if chunk.index not in done]
    if done:
        say(f"{len(done)} of {len(chunks)} chunks were done before; going on with the rest")
    if due:
        connect(source.root, out.url, *source.allowed)
        work = chunk_work(source, settings, out, names, files, key.pseudonyms)
        for count, index in enumerate(run_chunks(due, work), start=len(done) + 1):
            say(f"chunk {count} of {len(chunks)} (number {index}) written")
            done[index] = load_record(files[index])
    return [done[chunk.index] for chunk in chunks]


def _publish(
    before: Manifest,
    records: list[ChunkRecord],
    source: Source,
    settings: WriteSettings,
    mark: str,
    key: IngestKey,
) -> Manifest:
    """Settle duplicates, then write rejected.parquet and the manifest."""
    out = before.root
    earlier = read_images(before)
    new = pa.concat_tables([IMAGE_SCHEMA.empty_table(), *(record.images for record in records)])
    kept, drops = settle(pa.concat_tables([earlier, new]), earlier.num_rows, settings.clean.near_duplicates)
    files = _without(drops, [file for record in records for file in record.files], settings, out)
    aside = [rejected_aside(one, key.pseudonyms, settings) for one in source.set_aside]
    rejected = aside + [reject for record in records for reject in record.rejected]
    rejected += [Reject(drop.source_path, drop.reason, drop.detail, drop.sha256) for drop in drops]
    _write_rejected(before, rejected)
    if not files and not before.files:
        reasons = sorted({f"{reject.reason} ({reject.detail})" for reject in rejected})
        raise UserError(f"none of the {len(rejected)} images could be used: {'; '.join(reasons[:3])}")
    assert kept.num_rows + len(rejected) == source.found, "an image got lost"
    counts = Counter(reject.reason for reject in rejected)
    release = Release(mark, source.found, kept.num_rows, dict(sorted(counts.items())), source.ignored, PATIENT_RULE)
    keyed = any(record.keyed for record in records) or any(hides_path(one, False, settings) for one in source.set_aside)
    key_record = KeyRecord(key.pseudonyms.fingerprint, key.random) if keyed else None
    result = manifests.add_release(before, release, files, kept, source.columns, key_record)
    manifests.publish(result)
    _sweep(result)
    if keyed and key.random:
        say(NO_KEY)
    for warning in crowded_patients(pa.concat_tables([earlier, kept])):
        say(warning)
    return result


def _without(
    drops: list[Duplicate], files: list[FileRecord], settings: WriteSettings, out: storage.Place
) -> list[FileRecord]:
    """Files without the rows that were set aside."""
    ids: dict[str, set[str]] = {}
    for drop in drops:
        ids.setdefault(drop.file, set()).add(drop.image_id)
    changed = [
        drop_rows(out, file, ids[file.path], settings.row_group_images) if file.path in ids else file for file in files
    ]
    return [file for file in changed if file is not None]


def _write_rejected(before: Manifest, rejected: list[Reject]) -> None:
    """rejected.parquet of all releases; those of an interrupted attempt at this one are replaced."""
    file = before.root / manifests.REJECTED
    release = before.version + 1
    rows = pa.Table.from_pylist(
        [asdict(reject) | {"release": release} for reject in rejected], schema=manifests.REJECTED_SCHEMA
    )
    if before.version:
        earlier = read_table(file, manifests.REJECTED_SCHEMA, ("sha256",))
        rows = pa.concat_tables([earlier.filter(pc.field("release") < release), rows])
    write_table(file, rows)


def _sweep(manifest: Manifest) -> None:
    """Remove Parquet files that no version names: an interrupted ingest of other rows or settings left them. The lock
    says that nobody else writes here, so what kills left of files goes too.
    """
    storage.remove_drafts(manifest.root)
    named = {file.path for file in manifest.files}
    for file in storage.children(manifest.root):
        if SHARD_NAME.fullmatch(file.name) and file.name not in named:
            say(f"{file.url}: left by an interrupted ingest; removed")
            storage.remove(file)
