"""Copies of one image: byte for byte, or alike to a perceptual hash. One of them stays."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

HASH_BITS = 256


@dataclass(frozen=True)
class Duplicate:
    """An image of a new release that is set aside."""

    image_id: str
    source_path: str
    file: str
    reason: str
    detail: str
    sha256: str


def find_duplicates(images: pa.Table, earlier: int, near: int | None) -> list[Duplicate]:
    """Images to set aside, of a table of records.IMAGE_SCHEMA whose first `earlier` rows are there already and stay.

    Of copies in one release the one outside `train` stays, so that no evaluation image is trained on; then the first
    by image_id. `near` is the largest distance of perceptual hashes (bits of 256) of a near duplicate.
    """
    rank = _ranks(images, earlier)
    keeper = _exact(images["sha256"], rank)
    dropped = keeper != np.arange(images.num_rows)
    names, paths, files, digests = (images[name] for name in ("image_id", "source_path", "file", "sha256"))
    why = {int(row): ("duplicate", names[int(keeper[row])].as_py()) for row in np.flatnonzero(dropped)}
    if near is not None:
        for row, kept, distance in _near(images["phash"], rank, ~dropped, near):
            if row >= earlier and row not in why and kept not in why:
                why[row] = "near duplicate", f"{names[kept].as_py()} ({distance} of {HASH_BITS} bits)"
    return [
        Duplicate(names[row].as_py(), paths[row].as_py(), files[row].as_py(), *reason, digests[row].as_py())
        for row, reason in sorted(why.items())
    ]


def _ranks(images: pa.Table, earlier: int) -> np.ndarray:
    """The order in which copies are preferred: a rank for each row."""
    keys = pa.table(
        {
            "new": pa.array(np.arange(images.num_rows) >= earlier),
            "train": pa.array([split == "train" for split in images["split"].to_pylist()], pa.bool_()),
            "image_id": images["image_id"],
            "row": pa.array(np.arange(images.num_rows)),
        }
    )
    order = keys.sort_by([("new", "ascending"), ("train", "ascending"), ("image_id", "ascending")])["row"].to_numpy()
    rank = np.empty(images.num_rows, np.int64)
    rank[order] = np.arange(images.num_rows)
    return rank


def _exact(digests: pa.ChunkedArray, rank: np.ndarray) -> np.ndarray:
    """Row of the copy that stays, for each row."""
    codes = digests.combine_chunks().dictionary_encode().indices.to_numpy()
    best = np.full(int(codes.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(best, codes, rank)
    row_of = np.argsort(rank)
    return row_of[best[codes]]


def _near(hashes: pa.ChunkedArray, rank: np.ndarray, alive: np.ndarray, near: int) -> Iterator[tuple[int, int, int]]:
    """(row, better row, distance) of all pairs within `near` bits, the best rows first.

    Two hashes that differ in at most `near` bits agree on at least one of near + 1 bands of bits: only rows that share
    a band are compared (Manku, Jain and Das Sarma, WWW 2007).
    """
    values = hashes.to_pylist()
    rows = np.array([row for row in np.flatnonzero(alive) if values[row] is not None], np.int64)
    if not rows.size:
        return
    bits_NB = np.unpackbits(
        np.frombuffer(b"".join(values[row] for row in rows), np.uint8).reshape(rows.size, -1), axis=1
    )
    pairs: dict[tuple[int, int], int] = {}
    for band in np.array_split(np.arange(HASH_BITS), near + 1):
        packed = np.packbits(bits_NB[:, band], axis=1)
        _, codes = np.unique(packed, axis=0, return_inverse=True)
        order = np.argsort(codes, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            if group.size > 1:
                pairs |= _close(group, bits_NB, near)
    for (a, b), distance in sorted(pairs.items(), key=lambda pair: max(rank[rows[pair[0][0]]], rank[rows[pair[0][1]]])):
        worse, better = sorted((int(rows[a]), int(rows[b])), key=lambda row: -rank[row])
        yield worse, better, distance


def _close(group: np.ndarray, bits_NB: np.ndarray, near: int) -> dict[tuple[int, int], int]:
    found = {}
    for at, first in enumerate(group[:-1]):
        distances = (bits_NB[group[at + 1 :]] != bits_NB[first]).sum(axis=1)
        for other in np.flatnonzero(distances <= near):
            pair = sorted((int(first), int(group[at + 1 + other])))
            found[pair[0], pair[1]] = int(distances[other])
    return found
