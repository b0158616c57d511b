"""The pure parts of ingest: chunks before, duplicates and leaks after. `runtime/ingest.py` runs the chunks."""

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, fields

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Source, SourceRow, canonical_view, projection
from chexworld_ray.shards.writer import ChunkRecord, WriteSettings


@dataclass(frozen=True)
class Chunk:
    """Rows that one task turns into files, and a fingerprint of all that its result depends on."""

    index: int
    rows: list[SourceRow]
    fingerprint: str


def check_patients(source: Source) -> None:
    """Refuse a table in which a patient stands in two splits.

    Raises:
        UserError: names the first such patient and how many there are.
    """
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in source.rows:
        if row.split:
            splits[row.dataset, row.patient_id or row.image_id].add(row.split)
    leaks = sorted(patient for patient, names in splits.items() if len(names) > 1)
    if leaks:
        raise UserError(
            f"{len(leaks)} patients stand in more than one split, first {leaks[0][1]!r} in "
            f"{' and '.join(sorted(splits[leaks[0]]))}; put each patient into one split, "
            "or leave the column `split` out"
        )


def make_chunks(source: Source, settings: WriteSettings) -> list[Chunk]:
    """Rows shuffled by a seeded hash, kept apart by split and projection, cut into files' worth.

    A small set is cut finer than `file_images`, so that several tasks share the work.
    """
    groups: dict[tuple[str, str], list[SourceRow]] = defaultdict(list)
    for row in sorted(source.rows, key=lambda row: _hash(f"{settings.seed}:{row.image_id}")):
        groups[row.split or "", projection(canonical_view(row.view))].append(row)
    size = min(settings.file_images, max(settings.row_group_images, -(-len(source.rows) // 8)))
    cuts = [rows[start : start + size] for _, rows in sorted(groups.items()) for start in range(0, len(rows), size)]
    common = json.dumps([asdict(settings), asdict(source.columns)], sort_keys=True)
    return [Chunk(index, rows, _hash(common + "\n".join(map(_row_text, rows)))) for index, rows in enumerate(cuts)]


def _row_text(row: SourceRow) -> str:
    """All that a row says, the same in every process."""
    places = {"path": row.path.url, "masks": {organ: mask.url for organ, mask in row.masks.items()}}
    plain = {field.name: getattr(row, field.name) for field in fields(row) if field.name not in places}
    return json.dumps(plain | places, sort_keys=True)


def fingerprint(chunks: list[Chunk]) -> str:
    """Of a whole ingest: equal for the same rows and settings."""
    return _hash("".join(chunk.fingerprint for chunk in chunks))


def find_duplicates(records: list[ChunkRecord]) -> dict[str, dict[str, str]]:
    """file → {image_id to drop: image_id of the copy that stays}.

    Of byte-identical files the one outside `train` stays, so that no evaluation image is trained on; then the
    first by image_id.
    """
    copies: dict[str, list[dict[str, str]]] = defaultdict(list)
    for record in records:
        for image in record.images:
            copies[image["sha256"]].append(image)
    drops: dict[str, dict[str, str]] = defaultdict(dict)
    for images in copies.values():
        kept, *others = sorted(images, key=lambda image: (image["split"] == "train", image["image_id"]))
        for image in others:
            drops[image["file"]][image["image_id"]] = kept["image_id"]
    return dict(drops)


def check_header_patients(records: list[ChunkRecord]) -> None:
    """Refuse a result in which a patient stands in two splits (patients known only from DICOM headers).

    Raises:
        UserError: names the first such patient.
    """
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in records:
        for image in record.images:
            splits[image["dataset"], image["patient_id"]].add(image["split"])
    for (_, patient), names in sorted(splits.items()):
        if len(names) > 1:
            raise UserError(
                f"patient {patient!r} (from the DICOM header) stands in splits {' and '.join(sorted(names))}; "
                "give the patient in the table, or leave its column `split` out"
            )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
