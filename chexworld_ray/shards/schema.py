"""The Arrow schema of a shard (version 2), and the words that views go by."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from chexworld_ray.errors import UserError

SCHEMA_VERSION = 2
MANY_LABELS = 20  # too many to be told in a line
Projection = Literal["frontal", "lateral", "unknown"]
Meta = tuple[tuple[str, Literal["number", "text"]], ...]

BOX = pa.struct(
    [
        ("label", pa.string()),
        ("x", pa.float32()),
        ("y", pa.float32()),
        ("w", pa.float32()),
        ("h", pa.float32()),
    ]
)
LANDMARK = pa.struct([("name", pa.string()), ("row", pa.float32()), ("col", pa.float32())])

FIXED_FIELDS = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("image", pa.binary(), nullable=False),  # 8-bit single-channel JPEG
    pa.field("height", pa.int32(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("dataset", pa.string(), nullable=False),
    pa.field("patient_id", pa.string(), nullable=False),
    pa.field("study_id", pa.string()),
    pa.field("view", pa.string(), nullable=False),  # frontal AP, frontal PA, frontal, lateral, unknown
    pa.field("split", pa.string(), nullable=False),
    pa.field("source_path", pa.string(), nullable=False),
    pa.field("sha256", pa.string(), nullable=False),  # of the source file
    pa.field("phash", pa.binary()),  # perceptual hash, 256 bits, where near duplicates were asked for
    pa.field("boxes", pa.list_(BOX)),
    pa.field("landmarks", pa.list_(LANDMARK)),
    pa.field("flags", pa.list_(pa.string())),
]


@dataclass(frozen=True)
class Columns:
    """The columns that differ from data set to data set (names without their prefix)."""

    labels: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    meta: Meta = ()

    def union(self, other: "Columns") -> "Columns":
        """Columns of both.

        Raises:
            UserError: a column is a label in one and meta data in the other, or a number in one and text in the other.
        """
        if (read_otherwise := _labels_of_one(self, other)) is not None:
            raise UserError(f"--append: {read_otherwise}, or ingest all again")
        kinds = dict(self.meta)
        for name, kind in other.meta:
            if kinds.setdefault(name, kind) != kind:
                raise UserError(
                    f"--append: column {name!r} is {kinds[name]} in the releases before and {kind} in this one; "
                    "correct its cells, or ingest all again"
                )
        return Columns(
            tuple(dict.fromkeys(self.labels + other.labels)),
            tuple(dict.fromkeys(self.masks + other.masks)),
            tuple(kinds.items()),
        )

    def schema(self) -> pa.Schema:
        """Arrow schema of every shard of the data set."""
        kinds = {"number": pa.float64(), "text": pa.string()}
        return pa.schema(
            FIXED_FIELDS
            + [pa.field(f"label_{name}", pa.float32()) for name in self.labels]
            + [pa.field(f"mask_{name}", pa.binary()) for name in self.masks]
            + [pa.field(f"meta_{name}", kinds[kind]) for name, kind in self.meta]
        )


def _labels_of_one(before: Columns, later: Columns) -> str | None:
    """What is wrong where a column is a label in one and meta data in the other: images would lack the label."""
    come = [name for name in later.labels if name in dict(before.meta)]
    gone = [name for name in before.labels if name in dict(later.meta)]
    if not come and not gone:
        return None
    was, now = ("meta data", "a label") if come else ("a label", "meta data")
    labels = [name for name in later.labels if name not in come] + gone
    option = f"--label-columns {shlex.quote(','.join(labels))}" if len(labels) < MANY_LABELS else "--label-columns"
    return (
        f"column {[*come, *gone][0]!r} was {was} in the releases before and is {now} in this one; "
        f"read it as before, with {option}"
    )


_FIXED = {field.name: field for field in FIXED_FIELDS}
OPTIONAL = ("label_", "mask_", "meta_")
"""Columns that a later release may have brought, so that older files lack them."""


def column_fields(names: Iterable[str], stored: pa.Schema) -> pa.Schema:
    """Columns of a shard by their names; a meta column is a number or text, as it is stored.

    Raises:
        UserError: a name is no column of a shard.
    """
    return pa.schema([_FIXED.get(name) or pa.field(name, _type(name, stored)) for name in names])


def _type(name: str, stored: pa.Schema) -> pa.DataType:
    if name.startswith("label_"):
        return pa.float32()
    if name.startswith("mask_"):
        return pa.binary()
    if name.startswith("meta_"):
        number = name in stored.names and pa.types.is_floating(stored.types[stored.names.index(name)])
        return pa.float64() if number else pa.string()
    raise UserError(f"{name!r} is no column of a shard")


def every_column(stored: pa.Schema) -> pa.Schema:
    """All that a shard holds, in its order: the fixed columns and those with the prefixes of others."""
    others = [name for name in stored.names if name.startswith(OPTIONAL)]
    return column_fields([*_FIXED, *others], stored)


def projection(view: str) -> Projection:
    """frontal, lateral or unknown, from a `view` value."""
    if view.startswith("frontal"):
        return "frontal"
    return "lateral" if view == "lateral" else "unknown"


def canonical_view(word: str | None) -> str:
    """The schema's `view` from the word that a table or a DICOM header uses; 'unknown' for words not known."""
    key = (word or "").strip().upper()
    if key.removeprefix("FRONTAL").strip() in {"AP", "PA"}:
        return f"frontal {key.removeprefix('FRONTAL').strip()}"
    if key.startswith("FRONTAL"):
        return "frontal"
    return "lateral" if key in {"LATERAL", "LL", "RL", "LLD", "RLD", "LAT"} else "unknown"
