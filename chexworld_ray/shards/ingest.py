"""The pure parts of ingest: chunks before, duplicates and leaks after. `runtime/ingest.py` runs the chunks."""

import hashlib
import json
import zlib
from collections import defaultdict
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa

from chexworld_ray.errors import UserError
from chexworld_ray.shards.duplicates import Duplicate, find_duplicates
from chexworld_ray.shards.identify import row_split
from chexworld_ray.shards.schema import canonical_view, projection
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import TRAIN_VAL, Source, SourceRow, pack, unpack

SMALLEST_SHARE = 8  # a small set is cut finer than `file_images`, into so many chunks


@dataclass(frozen=True)
class Chunk:
    """Packed rows that one task turns into files, and a fingerprint of all that its result depends on."""

    index: int
    packed: list[bytes]
    fingerprint: str

    @property
    def rows(self) -> list[SourceRow]:
        """The rows, unpacked."""
        return [unpack(text) for text in self.packed]

    def squeeze(self) -> bytes:
        """The rows as few bytes, to travel."""
        return zlib.compress(b"\n".join(self.packed), 1)


def unsqueeze(data: bytes) -> list[SourceRow]:
    """The inverse of Chunk.squeeze."""
    return [unpack(text) for text in zlib.decompress(data).split(b"\n")]


def with_prefix(source: Source, prefix: str) -> Source:
    """The source with a prefix before every image id, for folders that use the same file names."""
    packed = [pack(replace(row, image_id=prefix + row.image_id)) for row in source]
    return replace(source, packed=packed)


def check_patients(source: Source) -> None:
    """Refuse a table in which a patient stands in two splits.

    Raises:
        UserError: says how many there are, and the first two rows, but not who it is.
    """
    first: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for at, row in enumerate(source):
        if row.split:
            first[row.dataset, row.patient_id or row.image_id].setdefault(row.split, at)
    leaks = [splits for splits in first.values() if len(splits) > 1]
    if leaks:
        rows = [
            f"row {source.number(at)} ({'train' if name == TRAIN_VAL else name})"
            for name, at in min(leaks, key=lambda splits: sorted(splits.values())[1]).items()
        ]
        raise UserError(
            f"{len(leaks)} patients stand in more than one split, the first in {' and '.join(rows[:2])}; "
            "put each patient into one split, or leave the column `split` out"
        )


def make_chunks(source: Source, settings: WriteSettings) -> list[Chunk]:
    """Rows shuffled by a seeded hash, kept apart by split and projection where they are known, cut into files' worth.

    A small set is cut finer than `file_images`, so that several tasks share the work.
    """
    groups: dict[tuple[str, str], list[tuple[bytes, int]]] = defaultdict(list)
    for at, row in enumerate(source):
        split = row_split(row, row.patient_id, settings) if row.patient_id is not None else row.split or ""
        order = hashlib.blake2b(f"{settings.split_seed}:{row.image_id}".encode(), digest_size=16).digest()
        groups[split, projection(canonical_view(row.view))].append((order, at))
    count = len(source.packed)
    size = min(settings.file_images, max(settings.row_group_images, -(-count // SMALLEST_SHARE)))
    common = json.dumps([asdict(settings), asdict(source.columns)], sort_keys=True)
    chunks: list[Chunk] = []
    for _, members in sorted(groups.items()):
        members.sort()
        for start in range(0, len(members), size):
            packed = [source.packed[at] for _, at in members[start : start + size]]
            digest = hashlib.sha256(common.encode() + b"\n".join(packed)).hexdigest()
            chunks.append(Chunk(len(chunks), packed, digest))
    return chunks


def fingerprint(chunks: list[Chunk]) -> str:
    """Of a whole ingest: equal for the same rows and settings."""
    return hashlib.sha256("".join(chunk.fingerprint for chunk in chunks).encode()).hexdigest()


def settle(images: pa.Table, earlier: int, near: int | None) -> tuple[pa.Table, list[Duplicate]]:
    """New images that stay (records.IMAGE_SCHEMA), and those that are set aside as copies or for a taken id.

    The first `earlier` rows of `images` are those of earlier releases.

    Raises:
        UserError: a patient stands in two splits.
    """
    drops = find_duplicates(images, earlier, near)
    dropped = {duplicate.image_id for duplicate in drops}
    old_ids = set(images["image_id"].slice(0, earlier).to_pylist())
    new = images.slice(earlier)
    for row in new.filter(pa.array([name in old_ids for name in new["image_id"].to_pylist()], pa.bool_())).to_pylist():
        if row["image_id"] not in dropped:
            detail = "an earlier release has another image of this id; ingest with --prefix"
            names = (row["image_id"], row["source_path"], row["file"])
            drops.append(Duplicate(*names, "id taken", detail, row["sha256"]))
    gone = {(drop.file, drop.image_id) for drop in drops}
    pairs = zip(new["file"].to_pylist(), new["image_id"].to_pylist(), strict=True)
    kept = new.filter(pa.array([pair not in gone for pair in pairs], pa.bool_()))
    check_leaks(pa.concat_tables([images.slice(0, earlier), kept]))
    return kept, drops


def check_leaks(images: pa.Table) -> None:
    """Refuse images (image_id, dataset, patient_id, split) of which a patient stands in two splits.

    Raises:
        UserError: says how many there are, and two images of the first, but not who it is.
    """
    leaks = leaking_patients(images)
    if leaks:
        one, other = leaks[0]
        raise UserError(
            f"{len(leaks)} patients stand in more than one split, first that of images {one!r} and {other!r}; "
            "give the patient in the table, or leave its column `split` out; in an added release use the owner's "
            "splits of the first"
        )


def leaking_patients(images: pa.Table) -> list[tuple[str, str]]:
    """Two images, in different splits, of each patient with images in several."""
    by_split = images.group_by(["dataset", "patient_id", "split"]).aggregate([("image_id", "min")])
    patients = by_split.group_by(["dataset", "patient_id"]).aggregate([("split", "count"), ("image_id_min", "list")])
    several = patients.filter(pa.array(np.asarray(patients["split_count"]) > 1))
    return sorted((names[0], names[1]) for names in map(sorted, several["image_id_min_list"].to_pylist()))
