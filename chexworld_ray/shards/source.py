"""What an adapter hands in: one row an image, packed, with the files that are no image counted apart.

Rows are kept as compact JSON, a few hundred bytes each, so that a million of them fit a laptop; the same
text is what a chunk's fingerprint is made of and what travels to the worker that decodes.
"""

import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal

from chexworld_ray.shards.schema import Columns

TRAIN_VAL = "train_val"
"""A row's split where the owner's files leave it to the user which training patients validate."""


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
    """An image that was set aside, and why."""

    source_path: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Source:
    """All rows of a data set, the columns that they fill, and what else was found below its root."""

    root: str
    packed: list[bytes]
    columns: Columns
    set_aside: list[Reject] = field(default_factory=list)
    """Rows whose file is missing."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Files that are no candidates, by kind: csv, txt, mask, hidden, unlisted …"""

    @property
    def found(self) -> int:
        """Rows of the tables, or candidate files: each is accepted or rejected."""
        return len(self.packed) + len(self.set_aside)

    def __iter__(self) -> Iterator[SourceRow]:
        return map(unpack, self.packed)
