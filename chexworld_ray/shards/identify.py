"""Who a row is: its names as they may be written, and its split."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np

from chexworld_ray.hashing import uniform
from chexworld_ray.shards.identity import HeaderIds, Pseudonyms
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import TRAIN_VAL, SourceRow, printable

_PATIENT_FOLDER = re.compile(r"(?i)^(?:patient|pat|subject|sub|p)[-_ ]?\d+$")


def split_of(patient: str, settings: WriteSettings, within: str | None = None) -> str:
    """train, val or test by a hash of the owner's patient id; `within` TRAIN_VAL leaves test to the owner's files."""
    key = int.from_bytes(hashlib.sha256(patient.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    draw = float(uniform(settings.split_seed, np.uint64(key)))  # type: ignore[arg-type]
    test = 0.0 if within == TRAIN_VAL else settings.test_fraction
    if draw < test:
        return "test"
    return "val" if draw < test + settings.val_fraction else "train"


def row_split(row: SourceRow, patient: str, settings: WriteSettings) -> str:
    """The owner's split, or one by hash."""
    return split_of(patient, settings, row.split) if row.split in (None, TRAIN_VAL) else row.split


@dataclass(frozen=True)
class Identity:
    """Who a row is, as it may be written."""

    image_id: str
    source_path: str
    dataset: str
    patient_id: str
    study_id: str | None
    split: str
    meta: dict[str, float | str]
    keyed: bool
    """Whether a keyed hash stands in it."""


def identify(row: SourceRow, header: HeaderIds | None, key: Pseudonyms, settings: WriteSettings) -> Identity:
    """Names of an image, its patient and study; what a DICOM header tells is replaced by keyed hashes.

    The patient is the table's, else the header's, else that of a folder named like a patient, else the image itself.
    The split is drawn from the owner's id, so that it does not depend on the key.
    """
    header = header or HeaderIds()
    folder = next((part for part in row.path.split("/")[:-1] if _PATIENT_FOLDER.match(part)), None)
    owner = printable(row.patient_id or header.patient or folder or row.image_id)
    split = row_split(row, owner, settings)
    if row.published or header == HeaderIds():
        path = printable(row.path)
        return Identity(row.image_id, path, row.dataset, owner, row.study_id, split, row.meta, keyed=False)
    hidden = header.in_path(row.path) or header.in_path(row.image_id)

    def hide(kind: str, value: str, of_header: bool = False) -> str:
        return key.name(kind, value) if of_header or header.in_text(value) else value

    meta: dict[str, float | str] = {
        name: hide("meta", value) if isinstance(value, str) else value for name, value in row.meta.items()
    }
    dataset = hide("dataset", row.dataset)
    patient = hide("patient", owner, row.patient_id is None and (header.patient is not None or hidden))
    study = row.study_id or header.study
    if study is not None:
        study = hide("study", study, row.study_id is None)
    before = (row.dataset, owner, row.study_id, row.meta)
    return Identity(
        key.path(row.image_id) if hidden else row.image_id,
        source_path(row, header, key),
        dataset,
        patient,
        study,
        split,
        meta,
        keyed=hidden or before != (dataset, patient, study, meta),
    )


def source_path(row: SourceRow, header: HeaderIds | None, key: Pseudonyms) -> str:
    """The row's path, or a keyed hash and the suffix where it tells an identifier, or may."""
    told = header is not None and not row.published and header.in_path(row.path)
    return key.path(row.path) if told else printable(row.path)
