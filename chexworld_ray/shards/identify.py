"""Who a row is: its names as they may be written, and its split."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np

from chexworld_ray.hashing import uniform
from chexworld_ray.shards.identity import MIN_INSIDE, HeaderIds, Pseudonyms
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import TRAIN_VAL, Reject, SetAside, SourceRow, printable
from chexworld_ray.shards.words import names_nobody

_PATIENT_FOLDER = re.compile(r"(?i)^(?:patient|pat|subject|sub|p)[-_ ]?\d+$")


def patient_folders(path: str) -> list[str]:
    """Folders of a path that are named like patients, the outermost first."""
    return [part for part in path.split("/")[:-1] if _PATIENT_FOLDER.match(part)]


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
    nobody: bool
    """Whether the header's patient is none: `nan`, ANONYMOUS and the like."""


def identify(row: SourceRow, header: HeaderIds | None, key: Pseudonyms, settings: WriteSettings) -> Identity:
    """Names of an image, its patient and study; what a DICOM header or its path tells is replaced by keyed hashes.

    The patient is the table's, else the header's, else that of the innermost folder named like a patient (around it may
    be shelves: `p10/p10000032` in MIMIC-CXR), else the image itself. The split is drawn from the owner's id, so that it
    does not depend on the key. `header` is None for no DICOM.
    """
    said = header.patient if header else None
    nobody = row.patient_id is None and said is not None and names_nobody(said.strip())
    folder = next(reversed(patient_folders(row.path)), None)
    owner = printable(row.patient_id or (None if nobody else said) or folder or row.image_id)
    split = row_split(row, owner, settings)
    hidden = hides_path(row, header is not None, settings)
    if row.published or (header is None and not hidden):
        path = printable(row.path)
        return Identity(row.image_id, path, row.dataset, owner, row.study_id, split, row.meta, False, nobody)
    told = header or HeaderIds()

    def hide(kind: str, value: str, surely: bool = False) -> str:
        return key.name(kind, value) if surely or told.in_text(value) else value

    meta: dict[str, float | str] = {
        name: hide("meta", value, hidden and _repeats_path(value, row.path)) if isinstance(value, str) else value
        for name, value in row.meta.items()
    }
    dataset = hide("dataset", row.dataset)
    patient = hide("patient", owner, row.patient_id is None and (told.patient is not None or hidden))
    study = row.study_id or told.study
    if study is not None:
        study = hide("study", study, row.study_id is None)
    before = (row.dataset, owner, row.study_id, row.meta)
    return Identity(
        key.path(row.image_id) if hidden else row.image_id,
        key.path(row.path) if hidden else printable(row.path),
        dataset,
        patient,
        study,
        split,
        meta,
        keyed=hidden or before != (dataset, patient, study, meta),
        nobody=nobody,
    )


def hides_path(row: SourceRow | SetAside, dicom: bool, settings: WriteSettings) -> bool:
    """Whether a keyed hash stands for a row's path: a DICOM file's, or one among such, unless the user keeps them."""
    return not settings.keep_paths and not row.published and (dicom or row.among_dicom)


def _repeats_path(text: str, path: str) -> bool:
    """Whether a cell holds a path, its folders or the name of its file."""
    folders, _, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    inside = [part for part in (path, name, stem) if len(part) >= MIN_INSIDE and part in text]
    return bool(inside) or (bool(folders) and text.strip("/") == folders)


def rejected_row(
    row: SourceRow, dicom: bool, why: tuple[str, str], digest: str | None, key: Pseudonyms, settings: WriteSettings
) -> Reject:
    """A file that could not be used, as it may be written; `why` is reason and detail, `digest` the file's sha256."""
    return Reject(key.path(row.path) if hides_path(row, dicom, settings) else printable(row.path), *why, digest)


def rejected_aside(one: SetAside, key: Pseudonyms, settings: WriteSettings) -> Reject:
    """What never came to a decoder, as it may be written."""
    hidden = hides_path(one, False, settings)
    return Reject(key.path(one.source_path) if hidden else printable(one.source_path), one.reason, one.detail)
