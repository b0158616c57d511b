"""The files below a data set's root, and rows checked against them."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.source import Reject, Source, SourceRow, pack, printable
from chexworld_ray.storage import Place, exists, files_below, place, resolve

NOT_IMAGES = frozenset(
    {"csv", "tsv", "gz", "json", "jsonl", "txt", "md", "rst", "pdf", "html", "xml", "yaml", "yml", "parquet", "arrow"}
    | {"npy", "npz", "pt", "xls", "xlsx", "doc", "docx", "py", "ipynb", "log", "zip", "tar", "tgz", "7z", "rar", "db"}
    | {"sqlite", "ini", "cfg", "sha256", "md5"}
)
_MASK_FOLDER = re.compile(r"(?i)^(?:\w*[-_ ])?masks?$|^(?:left|right|manual)masks?$")
_MASK_NAME = re.compile(r"(?i)[-_]mask(?:\.[a-z0-9]+)?$")


@dataclass(frozen=True)
class Listing:
    """All files below a folder, by path relative to it."""

    root: Place
    paths: frozenset[str]
    by_name: dict[str, list[str]] = field(repr=False)
    """Name without folders → paths."""

    def find(self, name: str, folder: str | None = None) -> str | None:
        """The first path (by spelling) with this name, in a folder of this name where one is given."""
        found = self.by_name.get(name, [])
        if folder is not None:
            found = [path for path in found if path.split("/")[-2:-1] == [folder]]
        return found[0] if found else None

    def need(self, names: Iterable[str], what: str) -> str:
        """The first of several names that is there.

        Raises:
            UserError: none is; says what the folder should look like.
        """
        wanted = list(names)
        for name in wanted:
            if (path := self.find(name)) is not None:
                return path
        raise UserError(f"{self.root.url}: no {' or '.join(wanted)} below it; a folder of {what} has one")

    def matching(self, pattern: str) -> list[str]:
        """Paths whose name matches a pattern from its start to its end, by spelling."""
        form = re.compile(pattern)
        return sorted(path for name, paths in self.by_name.items() if form.fullmatch(name) for path in paths)


def list_files(root_url: str) -> Listing:
    """List a folder.

    Raises:
        UserError: there is no such folder.
    """
    root = place(root_url)
    if not exists(root):
        raise UserError(f"{root_url}: no such folder")
    if not root.fs.isdir(root.path):
        raise UserError(f"{root_url}: not a folder")
    prefix = root.path.rstrip("/") + "/"
    paths = sorted(file.path.removeprefix(prefix) for file in files_below(root))
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(path.rsplit("/", 1)[-1], []).append(path)
    return Listing(root, frozenset(paths), by_name)


def kind_of(path: str) -> str | None:
    """Why a file is no candidate: its suffix, hidden, or mask; None for a candidate."""
    parts = path.split("/")
    if any(part.startswith(".") for part in parts) or "__MACOSX" in parts:
        return "hidden"
    suffix = parts[-1].rsplit(".", 1)[-1].lower() if "." in parts[-1] else ""
    if suffix in NOT_IMAGES:
        return suffix
    is_mask = any(_MASK_FOLDER.match(part) for part in parts[:-1]) or _MASK_NAME.search(parts[-1])
    return "mask" if is_mask else None


def collect(listing: Listing, rows: Iterable[SourceRow], columns: Columns, skip_missing: bool, table: str) -> Source:
    """Rows checked against the files: each id once, each file there; the other files counted by kind.

    `table` is what the rows come from, for the error. Files that stand outside the root are looked up one by one.

    Raises:
        UserError: an id comes twice, a file is missing and `skip_missing` is not set, or nothing is left.
    """
    packed: list[bytes] = []
    missing: list[Reject] = []
    first_missing = ""
    ids: dict[str, int] = {}
    images: set[str] = set()
    masks: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if ids.setdefault(row.image_id, number) != number:
            raise UserError(
                f"{table}: rows {ids[row.image_id]} and {number} name the same image {row.image_id!r}; each has one row"
            )
        files = [path for mask in row.masks.values() if mask.kind == "files" for path in mask.values]
        absent = [path for path in (row.path, *files) if not _is_there(listing, path)]
        images.add(row.path)
        masks.update(files)
        if absent:
            first_missing = first_missing or f"{absent[0]} (row {number})"
            missing.append(Reject(printable(row.path), "missing file", printable(absent[0])))
        else:
            packed.append(pack(row))
    if missing and (not skip_missing or not packed):
        raise UserError(
            f"{table}: {len(missing)} of {len(ids)} rows name files that are not there, first {first_missing}; "
            "correct the table, or set such rows aside with --skip-missing"
        )
    if not packed:
        raise UserError(f"{listing.root.url}: no images below this folder")
    kinds: Counter[str] = Counter()
    for path in listing.paths - images:
        kinds["mask" if path in masks else kind_of(path) or "unlisted"] += 1
    return Source(listing.root.url, packed, columns, missing, dict(sorted(kinds.items())))


def _is_there(listing: Listing, path: str) -> bool:
    outside = path.startswith(("/", "..")) or "://" in path
    return path in listing.paths or (outside and exists(resolve(listing.root, path)))
