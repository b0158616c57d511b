"""Which file stands behind a keyed hash of a path: for the owner, who has the files."""

import hashlib
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

import pyarrow as pa

from chexworld_ray.errors import UserError
from chexworld_ray.regular_files import LARGEST, UnfitFile
from chexworld_ray.shards.identity import KEY_VARIABLE, Pseudonyms
from chexworld_ray.shards.manifest import REJECTED, Manifest
from chexworld_ray.shards.parquet import read_table
from chexworld_ray.shards.reader import read_images
from chexworld_ray.shards.rejected import largest_file
from chexworld_ray.shards.settings import CleanSettings
from chexworld_ray.shards.sources.listing import Listing
from chexworld_ray.storage import fetch

_REJECTS = pa.schema([(name, pa.string()) for name in ("source_path", "sha256", "reason")])
LINKS = 2  # of a path; each multiplies the paths
_HASHED = re.compile(r"[0-9a-f]{24}(?:\.[a-z0-9]{1,5})?")


def originals(manifest: Manifest, listing: Listing, key: Pseudonyms | None) -> Iterator[tuple[str, str, str]]:
    """(path as it is stored, file of the folder, why it was rejected or nothing) of each path that was hashed.

    With the key of the ingest by the paths alone, also by those through links, as a table may have them. Without, or
    where it was a random one that nobody has, by contents: every file that an ingest reads is read, copies can't be
    told apart, and files that could not be read are not found.

    Raises:
        UserError: the key is not the one that the data set was made with.
    """
    stored = _hashed_rows(manifest)
    if manifest.key is not None and not manifest.key.random and key is not None:
        if key.fingerprint != manifest.key.fingerprint:
            raise UserError(f"{manifest.root.url}: ingested with another key than that of {KEY_VARIABLE}")
        paths = [*listing.paths, *(folder + "/" for folder in listing.refused)]
        names = {key.path(path): path for path in sorted(paths)}
        others = {path for path, _, _ in stored} - names.keys()
        names |= {hashed: path for path in _by_links(listing, bool(others)) if (hashed := key.path(path)) in others}
        yield from ((path, names[path], reason) for path, reason, _ in stored if path in names)
        return
    rows = defaultdict(list)
    limit = _largest(manifest)
    for path, reason, digest in stored:
        rows[digest].append((path, reason))
    for file in sorted(listing.paths):
        try:
            digest = hashlib.sha256(fetch(listing.root / file, limit)).hexdigest()
        except (OSError, UnfitFile):
            continue
        yield from ((path, file, reason) for path, reason in rows.get(digest, ()))


def _by_links(listing: Listing, wanted: bool) -> Iterator[str]:
    """Other paths of files, through one link or two: a table may name a file by any of its paths."""
    found = sorted(listing.paths) if wanted and listing.same else []
    for _ in range(LINKS):
        others: set[str] = set()
        for link, folder in listing.same.items():
            below = folder + "/" if folder else ""
            inside = found[bisect_left(found, below) : bisect_left(found, folder + "0")] if folder else found
            others.update(f"{link}/{path.removeprefix(below)}" for path in inside)  # "0" is next to "/"
        found = sorted(others)
        yield from found


def _largest(manifest: Manifest) -> int:
    """Bytes of the largest file that the ingest read, if what its manifest says of that can be true."""
    clean = manifest.settings.get("clean")
    said = clean.get("max_megapixels") if isinstance(clean, dict) else None
    if not isinstance(said, int | float) or not 0 < said < LARGEST:
        said = CleanSettings().max_megapixels
    return min(LARGEST, largest_file(said))


def _hashed_rows(manifest: Manifest) -> list[tuple[str, str, str | None]]:
    """(path, reason or nothing, sha256) of all images and rejects whose path was hashed, by path."""
    images = read_images(manifest).select(["source_path", "sha256"])
    images = images.append_column("reason", pa.array([""] * images.num_rows, pa.string()))
    rejected = read_table(manifest.root / REJECTED, _REJECTS, ("sha256",))
    rows = (row for table in (images, rejected) for row in table.to_pylist())
    return sorted(
        ((row["source_path"], row["reason"], row["sha256"]) for row in rows if _HASHED.fullmatch(row["source_path"])),
        key=lambda row: row[:2],
    )
