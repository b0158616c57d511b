"""What an adapter hands in: one row an image, packed, with the files that are no image counted apart.

Rows are kept as compact JSON, a few hundred bytes each, so that a million of them fit a laptop; the same
text is what a chunk's fingerprint is made of and what travels to the worker that decodes.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal

from chexworld_ray.shards.schema import Columns

TRAIN_VAL = "train_val"
"""A row's split where the owner's files leave it to the user which training patients validate."""


_DICOM_NAME = re.compile(r"(?i)dicomdir|.*\.(?:dcm|dicom|dic|dc3|ima)|\d+(?:\.\d+){3,}|[a-z]{0,4}[-_]?\d+")
_PICTURE_NAME = re.compile(r"(?i).*\.(?:png|jpe?g?|jfif|tiff?|bmp|gif|webp|jp2|jpx|j2k)")
_KNOWN_SUFFIX = re.compile(r"(?i).+(\.(?:dcm|dicom|dic|dc3|ima|png|jpe?g?|jfif|tiff?|bmp|gif|webp|jp2|jpx|j2k))")


def named_like_dicom(path: str) -> bool:
    """Whether archives name DICOM files like this: by suffix, by a UID, by a number without a suffix."""
    return _DICOM_NAME.fullmatch(path.rsplit("/", 1)[-1]) is not None


def named_like_picture(path: str) -> bool:
    """Whether a file's suffix is that of a picture."""
    return _PICTURE_NAME.fullmatch(path.rsplit("/", 1)[-1]) is not None


def known_suffix(path: str) -> str:
    """The suffix of a file, lower case, if it says what kind of image it is; any other may be part of a name."""
    found = _KNOWN_SUFFIX.fullmatch(path.rsplit("/", 1)[-1])
    return found[1].lower() if found else ""


@dataclass(frozen=True)
class MaskSource:
    """Where a mask comes from."""

    kind: Literal["files", "runs", "boxes"]
    """Pictures (the mask is their union), run lengths, or the row's boxes, filled."""
    values: tuple[str, ...] = ()
    """Paths of pictures, or texts of run lengths; none is an empty mask."""
    size: tuple[int, int] = (0, 0)
    """Height and width that run lengths refer to."""


def picture_masks(files: dict[str, str | None]) -> dict[str, MaskSource]:
    """A mask for each organ whose picture is there; `lung` is both lungs, where both are."""
    masks = {organ: MaskSource("files", (file,)) for organ, file in files.items() if file}
    lungs = tuple(file for side in ("left", "right") if (file := files.get(f"{side}_lung")))
    return masks | ({"lung": MaskSource("files", lungs)} if len(lungs) == 2 else {})


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """One image as an adapter found it. Coordinates are in pixels of the stored file."""

    image_id: str
    path: str
    """Relative to the source's root; or a path or URL of its own."""
    dataset: str
    patient_id: str | None = None
    study_id: str | None = None
    view: str | None = None
    split: str | None = None
    """train, val, test, TRAIN_VAL, or None: by a hash of the patient."""
    masks: dict[str, MaskSource] = field(default_factory=dict)
    labels: dict[str, float] = field(default_factory=dict)
    meta: dict[str, float | str] = field(default_factory=dict)
    boxes: list[dict[str, Any]] = field(default_factory=list)
    landmarks: list[dict[str, Any]] = field(default_factory=list)
    encoding: Literal["detect", "jsrt"] = "detect"
    """How the file is to be read; JSRT's raw files say nothing about themselves."""
    published: bool = False
    """Identifiers are pseudonyms that the owner of a public data set published, and are kept."""
    among_dicom: bool = False
    """Files of its folder or table are named like DICOM: its path may tell who it is, even if it is a picture."""


_DEFAULTS = {
    one.name: one.default_factory() if one.default_factory is not MISSING else one.default
    for one in fields(SourceRow)
    if one.default is not MISSING or one.default_factory is not MISSING
}


def printable(path: str) -> str:
    """A path as text that any file can hold: bytes that are no UTF-8 are spelled out."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def pack(row: SourceRow) -> bytes:
    """All that a row says, the same in every process."""
    said = {name: value for name, value in vars(row).items() if name not in _DEFAULTS or value != _DEFAULTS[name]}
    if row.masks:
        said["masks"] = {organ: asdict(mask) for organ, mask in row.masks.items()}
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def unpack(text: bytes) -> SourceRow:
    """The inverse of `pack`."""
    record = json.loads(text)
    record["masks"] = {
        organ: MaskSource(mask["kind"], tuple(mask["values"]), (mask["size"][0], mask["size"][1]))
        for organ, mask in record.get("masks", {}).items()
    }
    return SourceRow(**record)


@dataclass(frozen=True)
class Reject:
    """An image that was set aside, and why, as it may be written."""

    source_path: str
    reason: str
    detail: str = ""
    sha256: str | None = None
    """Of the file, where it could be read: who has it can find it without a key."""


@dataclass(frozen=True)
class SetAside:
    """A row or folder that never comes to a decoder, and why; its path is the owner's, not yet fit to be written."""

    source_path: str
    reason: str
    detail: str
    among_dicom: bool = False
    published: bool = False


@dataclass(frozen=True)
class Source:
    """All rows of a data set, the columns that they fill, and what else was found below its root."""

    root: str
    packed: list[bytes]
    columns: Columns
    set_aside: list[SetAside] = field(default_factory=list)
    """Rows whose file is missing or one of whose cells is bad, and folders that can't be listed."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Files that are no candidates, by kind: csv, txt, mask, hidden, unlisted …"""
    numbers: tuple[int, ...] = ()
    """Where each packed row stands among the owner's, from 1."""
    origin: dict[str, str] = field(default_factory=dict)
    """Column of the shards → column of the table that it was, where their names differ."""
    allowed: tuple[str, ...] = ()
    """Where paths of rows may lead beside the root (`trust.allowed_prefixes`)."""
    told: tuple[str, ...] = ()
    """Lines on how the cells of a user's table were read."""
    links: str = ""
    """How many links to folders were followed."""

    @property
    def found(self) -> int:
        """Rows of the tables, or candidate files, and folders that can't be listed: each is accepted or rejected."""
        return len(self.packed) + len(self.set_aside)

    def number(self, at: int) -> int:
        """Where the packed row at an index stands among the owner's rows, from 1."""
        return self.numbers[at] if len(self.numbers) == len(self.packed) else at + 1

    def __iter__(self) -> Iterator[SourceRow]:
        return map(unpack, self.packed)


def shown(name: str) -> str:
    """A column's name on one line."""
    return name if name.isprintable() else ascii(name)


def kept_columns(source: Source) -> str:
    """What is stored of the rows, under which name, and of how many; columns of a table beside their new names. Further
    lines say how cells were read.
    """
    fixed = ("patient_id", "study_id", "view", "split", "boxes", "landmarks")
    counts: Counter[tuple[str, str]] = Counter()
    for row in source:  # a million rows of a table are not all unpacked at once
        counts.update(("", name) for name in fixed if getattr(row, name))
        counts.update((kind, name) for kind in ("labels", "masks", "meta") for name in getattr(row, kind))

    def told(column: str, count: int, kind: str = "") -> str:
        origin = source.origin.get(column, "")
        return shown(f"{column}{kind}" + (f" from {origin}" if origin not in ("", column) else "")) + f" {count}"

    found = [told(name, counts["", name]) for name in fixed if counts["", name] or name in source.origin]
    lines = [", ".join([told("image_id", len(source.packed)), *found])]
    groups = {
        "labels": [told(name, counts["labels", name]) for name in source.columns.labels],
        "masks": [told(f"mask_{name}", counts["masks", name]) for name in source.columns.masks],
        "meta data": [told(f"meta_{name}", counts["meta", name], f" ({kind})") for name, kind in source.columns.meta],
    }
    lines += [f"{group}: {', '.join(names)}" for group, names in groups.items() if names]
    return "\n".join([f"columns kept, and of how many of {source.found} images: {'; '.join(lines)}", *source.told])
