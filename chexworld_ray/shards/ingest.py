"""The pure parts of ingest: chunks before, duplicates and leaks after. `runtime/ingest.py` runs the chunks."""

import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chexworld_ray.config import from_dict
from chexworld_ray.errors import UserError
from chexworld_ray.shards.duplicates import Duplicate, find_duplicates
from chexworld_ray.shards.identify import patient_folders, row_split
from chexworld_ray.shards.manifest import Manifest, Release
from chexworld_ray.shards.schema import canonical_view, projection
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import TRAIN_VAL, Source, SourceRow, pack, shown, unpack

PATIENT_RULE = 2  # Release.patient_rule of what is ingested now
CROWD, MANY = 100, 10  # times the median of images is too many for one patient; no patient has too many of up to ten
SMALLEST_SHARE = 8  # a small set is cut finer than `file_images`, into so many chunks


@dataclass(frozen=True)
class Chunk:
    """Packed rows that one task turns into files, and a fingerprint of all that its result depends on but the check of
    pictures, whose version stands with each file."""

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


def check_patient_folders(source: Source) -> None:
    """Refuse folders that would make one patient of many: `patient0001/p1` and `patient0002/p1`. A shelf around a
    patient (`p10/p10000032`) never holds the same name as another shelf. Of DICOM files the header tells who it is.

    Raises:
        UserError: there are such folders.
    """
    around: dict[str, list[str]] = {}
    for row in source:
        *outer, inner = patient_folders(row.path) or [""]
        if row.patient_id is None and not row.among_dicom and around.setdefault(inner, outer) != outer and inner:
            raise UserError(
                f"folders named {inner!r} lie in several folders that are named like patients, too; "
                "name the patients in a table (--labels), or rename the inner folders"
            )


def check_patient_rule(source: Source, releases: Sequence[Release], where: str) -> None:
    """Refuse to add images whose patients would go by other names than in earlier releases.

    Raises:
        UserError: there are such images.
    """
    if _by_another_rule(source, releases):
        raise UserError(
            f"--append: {where} was ingested when the outermost of several folders named like patients (p10/p10000032) "
            "was the patient, now it is the innermost; ingest all again, or name the patients in a table (--labels)"
        )


def _by_another_rule(source: Source, releases: Sequence[Release]) -> bool:
    """Whether a release knows patients of these images by the rule of an older program."""
    return any(release.patient_rule != PATIENT_RULE for release in releases) and any(map(_in_several_folders, source))


def _in_several_folders(row: SourceRow) -> bool:
    return row.patient_id is None and len({*patient_folders(row.path)}) > 1


def check_settings(before: Manifest, settings: WriteSettings) -> None:
    """Refuse to add to a data set that was made with other settings. One that its program did not know yet has the
    value that it has by default.

    Raises:
        UserError: with those that differ.
    """
    if told := _other_settings(before, settings):
        raise UserError(f"--append: {before.root.url} was ingested with other settings: {told}")


def _other_settings(before: Manifest, settings: WriteSettings) -> str:
    wanted, there = settings.of_data(), from_dict(WriteSettings, before.settings, before.root.url).of_data()
    names = sorted(name for name in wanted if there[name] != wanted[name])
    return ", ".join(f"{name} {there[name]} (now {wanted[name]})" for name in names)


def why_another(before: Manifest, source: Source, settings: WriteSettings) -> str:
    """Why what is there is not what would be ingested, where that can be told: settings; or, of as many images with the
    same columns, the rules by which an older program read them. Nothing where rows differ.
    """
    if told := _other_settings(before, settings):
        return f"with {told}"
    was, now = (
        dict.fromkeys(of.labels, "a label") | dict(of.meta) | {f"mask_{organ}": "a mask" for organ in of.masks}
        for of in (before.columns, source.columns)
    )
    if was.keys() != now.keys() or source.found not in [release.found for release in before.releases]:
        return ""
    told = [f"{shown(name)} was {was[name]}, now it is {kind}" for name, kind in now.items() if was[name] != kind]
    if _by_another_rule(source, before.releases):
        told.append("the outermost of several folders named like patients was the patient, now it is the innermost")
    return f"or the same one, read by older rules: {'; '.join(told)}" if told else ""


def make_chunks(source: Source, settings: WriteSettings) -> list[Chunk]:
    """Rows shuffled by a seeded hash, kept apart by split and projection where they are known, cut into files' worth.

    A small set is cut finer than `file_images`, so that several tasks share the work.
    """
    groups: dict[tuple[str, str], list[tuple[bytes, int]]] = defaultdict(list)
    by_rule: set[int] = set()
    for at, row in enumerate(source):
        split = row_split(row, row.patient_id, settings) if row.patient_id is not None else row.split or ""
        order = hashlib.blake2b(f"{settings.split_seed}:{row.image_id}".encode(), digest_size=16).digest()
        groups[split, projection(canonical_view(row.view))].append((order, at))
        by_rule |= {at} if _in_several_folders(row) else set()
    count = len(source.packed)
    size = min(settings.file_images, max(settings.row_group_images, -(-count // SMALLEST_SHARE)))
    common = json.dumps([settings.told, asdict(source.columns)], sort_keys=True)
    chunks: list[Chunk] = []
    for _, members in sorted(groups.items()):
        members.sort()
        for start in range(0, len(members), size):
            of_chunk = [at for _, at in members[start : start + size]]
            packed = [source.packed[at] for at in of_chunk]
            rule = b"" if by_rule.isdisjoint(of_chunk) else b"patient rule %d" % PATIENT_RULE
            digest = hashlib.sha256(common.encode() + rule + b"\n".join(packed)).hexdigest()
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


def crowded_patients(images: pa.Table) -> list[str]:
    """Warnings, one a source, where one patient has more than a hundred times the median of images, or more than half
    of all: an id may stand for "unknown", or a folder for many patients. `images`: records.IMAGE_SCHEMA.
    """
    patients = images.group_by(["dataset", "patient_id"]).aggregate([("image_id", "count"), ("image_id", "min")])
    told: list[str] = []
    for dataset in sorted(set(patients["dataset"].to_pylist())):
        of_source = patients.filter(pc.field("dataset") == dataset)
        counts = np.asarray(of_source["image_id_count"])
        most, median, total = int(counts.max()), float(np.median(counts)), int(counts.sum())
        if most > MANY and (most > CROWD * median or 2 * most > total):
            image = of_source["image_id_min"][int(counts.argmax())].as_py()
            told.append(
                f"warning: {dataset}: one patient has {most} of {total} images (median of {counts.size} patients: "
                f"{median:g}), {image!r} among them; all go to one split. If these are several people, name the "
                "patients in a table (--labels)"
            )
    return told
