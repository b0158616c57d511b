"""The files below a data set's root, and rows checked against them."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from chexworld_ray.errors import UserError
from chexworld_ray.folders import Walk
from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.source import SetAside, Source, SourceRow, named_like_dicom, pack, printable
from chexworld_ray.shards.sources.cells import row_fault
from chexworld_ray.storage import Place, StorageError, exists, listed_below, place
from chexworld_ray.trust import allowed_prefixes, resolve

NOT_IMAGES = frozenset(
    {"csv", "tsv", "gz", "json", "jsonl", "txt", "md", "rst", "pdf", "html", "xml", "yaml", "yml", "parquet", "arrow"}
    | {"npy", "npz", "pt", "xls", "xlsx", "doc", "docx", "py", "ipynb", "log", "zip", "tar", "tgz", "7z", "rar", "db"}
    | {"draft"}  # what a kill left of a file of ours
    | {"sqlite", "ini", "cfg", "sha256", "md5"}
)
MISSING, OUTSIDE = "missing file", "outside the folder"
BAD_CELL, UNREADABLE_FOLDER = "bad table cell", "folder can't be listed"
_MASK_FOLDER = re.compile(r"(?i)^(?:\w*[-_ ])?masks?$|^(?:left|right|manual)masks?$")
_MASK_NAME = re.compile(r"(?i)[-_]mask(?:\.[a-z0-9]+)?$")


@dataclass(frozen=True)
class Listing:
    """All files below a folder, by path relative to it."""

    root: Place
    paths: frozenset[str]
    by_name: dict[str, list[str]] = field(repr=False)
    """Name without folders → paths."""
    refused: dict[str, str] = field(default_factory=dict)
    """Folders that can't be listed, with what the system says."""
    allowed: tuple[str, ...] = ()
    """Where tables may lead beside the root (`trust.allowed_prefixes`)."""
    same: dict[str, str] = field(default_factory=dict)
    """Folders that are listed by another path, for links lead to them, and by which."""
    links: str = ""
    """How many links to folders were followed, for the user."""

    def listed(self, path: str) -> str | None:
        """The path by which a file is listed; None where it is not."""
        while path not in self.paths:
            inside = path
            while inside and inside not in self.same:
                inside = inside.rpartition("/")[0]
            if not inside:
                return None
            path = posixpath.join(self.same[inside], path[len(inside) + 1 :])
        return path

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


def list_files(root_url: str, allowed: Sequence[str] = ()) -> Listing:
    """List a folder, whose tables may also name what lies below `allowed` prefixes.

    Raises:
        UserError: there is no such folder, or it can't be listed.
    """
    root = place(root_url)
    if not exists(root):
        raise UserError(f"{root_url}: no such folder")
    if not root.fs.isdir(root.path):
        raise UserError(f"{root_url}: not a folder")
    prefix = root.path.rstrip("/") + "/"
    found = listed_below(root)
    paths = [file.removeprefix(prefix) for file in found.files]
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(path.rsplit("/", 1)[-1], []).append(path)
    refused = {folder.removeprefix(prefix): said for folder, said in found.refused.items()}
    same = {folder.removeprefix(prefix): (one + "/").removeprefix(prefix)[:-1] for folder, one in found.same.items()}
    allow = allowed_prefixes(allowed)
    return Listing(root, frozenset(paths), by_name, refused, allow, same, _links(found))


def _links(found: Walk) -> str:
    if not found.followed:
        return ""
    return f"links to folders: {found.followed} followed, {found.outside} of them out of the folder"


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


def collect(
    listing: Listing, rows: Iterable[SourceRow | SetAside], columns: Columns, skip_missing: bool, table: str
) -> Source:
    """Rows checked against the files: each id once, each file there, cells sound; the other files counted by kind.

    `table` is what the rows come from, for the error. Files that stand outside the root are looked up one by one.
    A row with a bad cell is set aside, and so is each folder that can't be listed.

    Raises:
        UserError: an id comes twice, a file is missing and `skip_missing` is not set, or nothing is left.
    """
    packed: list[bytes] = []
    numbers: list[int] = []
    aside: list[SetAside] = []
    ids: dict[str, int] = {}
    images: set[str] = set()
    masks: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if isinstance(row, SetAside):
            aside.append(replace(row, detail=f"{table.rsplit('/', 1)[-1]}, row {number}: {row.detail}"))
            images.add(row.source_path)
            continue
        _check_once(ids, row, number, table)
        files = [path for mask in row.masks.values() if mask.kind == "files" for path in mask.values]
        images.add(listing.listed(row.path) or row.path)
        masks.update(listing.listed(path) or path for path in files)
        if (why := _why_aside(listing, row, files, number, table)) is not None:
            aside.append(why)
        else:
            packed.append(pack(row))
            numbers.append(number)
    _refuse_missing(aside, skip_missing, bool(packed), number_of_rows=len(packed) + len(aside), table=table)
    aside += _folders(listing, any(named_like_dicom(path) for path in images))
    if not packed and aside:
        first = f"{aside[0].reason} ({aside[0].detail})"
        raise UserError(f"{table}: none of the {len(aside)} images found can be used, first: {first}; correct that")
    if not packed:
        raise UserError(f"{listing.root.url}: no images below this folder")
    kinds: Counter[str] = Counter()
    for path in listing.paths - images:
        kinds["mask" if path in masks else kind_of(path) or "unlisted"] += 1
    return Source(
        listing.root.url,
        packed,
        columns,
        aside,
        dict(sorted(kinds.items())),
        tuple(numbers),
        allowed=listing.allowed,
        links=listing.links,
    )


def _check_once(ids: dict[str, int], row: SourceRow, number: int, table: str) -> None:
    if ids.setdefault(row.image_id, number) != number:
        name = "" if row.among_dicom else f" {printable(row.image_id)!r}"
        raise UserError(f"{table}: rows {ids[row.image_id]} and {number} name the same image{name}; each has one row")


def _why_aside(listing: Listing, row: SourceRow, files: list[str], number: int, table: str) -> SetAside | None:
    """Why a row goes no further; None where it does."""
    try:
        absent = [path for path in (row.path, *files) if not _is_there(listing, path)]
    except StorageError:
        raise
    except UserError as error:
        told = f"row {number}: {'a path there leads out of the folder' if row.among_dicom else error}"
        return SetAside(row.path, OUTSIDE, told, row.among_dicom, row.published)
    if absent:
        told = f"row {number}" if row.among_dicom else f"{printable(absent[0])} (row {number})"
        return SetAside(row.path, MISSING, told, row.among_dicom, row.published)
    if (fault := row_fault(row)) is not None:
        told = f"{table.rsplit('/', 1)[-1]}, row {number}: {fault}"
        return SetAside(row.path, BAD_CELL, told, row.among_dicom, row.published)
    return None


def _refuse_missing(
    aside: list[SetAside], skip_missing: bool, some_left: bool, number_of_rows: int, table: str
) -> None:
    if skip_missing and some_left:
        return
    if outside := [one for one in aside if one.reason == OUTSIDE]:
        raise UserError(f"{table}: {outside[0].detail}")
    if missing := [one for one in aside if one.reason == MISSING]:
        raise UserError(
            f"{table}: {len(missing)} of {number_of_rows} rows name files that are not there, first "
            f"{missing[0].detail}; correct the table, or set such rows aside with --skip-missing"
        )


def _folders(listing: Listing, among_dicom: bool) -> list[SetAside]:
    return [
        SetAside(folder + "/", UNREADABLE_FOLDER, said, among_dicom) for folder, said in sorted(listing.refused.items())
    ]


def _is_there(listing: Listing, path: str) -> bool:
    if listing.listed(path) is not None:
        return True
    named = resolve(listing.root, path, listing.allowed)
    return (path.startswith("/") or ".." in path.split("/") or "://" in path) and exists(named)
