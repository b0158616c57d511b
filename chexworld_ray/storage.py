"""Every path is a URL: local, s3://, gs://, memory://, whatever fsspec opens. The only room that knows.

A write is whole or not there: local files are written beside their place and renamed; object stores
publish an object when its upload completes.
"""

import errno
import json
import os
import posixpath
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from chexworld_ray.addresses import AZURE, masked, refuse_secrets
from chexworld_ray.errors import UserError
from chexworld_ray.folders import Walk, walk
from chexworld_ray.regular_files import LARGEST, UnfitFile, check_bytes, open_regular, read_regular

# S3-compatible servers answer a read of a part with the checksum of the whole object, or refuse checksummed writes;
# what must be whole carries a sha256 of its own. Throttling, 5xx and lost connections are tried again, after pauses.
_S3_OPTIONS: dict[str, Any] = {
    "config_kwargs": {
        "response_checksum_validation": "when_required",
        "request_checksum_calculation": "when_required",
        "retries": {"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", "8"))},
    }
}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_NO_BUCKET = re.compile(r"(?i)bucket does not exist|NoSuchBucket")
_NAMES_NOTHING = re.compile(
    r"(?i)(?!memory:)[a-z][a-z0-9+.-]+:/*$|(s3a?|gc?s|https?|ftps?|sftp|ssh|smb|az|abfss?|wasbs?):/*(/{3}|$)"
)
_GONE = (403, 404, 410)  # status of what a web server has not; buckets that may not be listed answer 403 for that
# a network file system or a disk that is away, which may come back
_AWAY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO}
_NO_RANGE = re.compile(r"(?i)range.*not satisfiable|InvalidRange|\b416\b")
_PIECE = 1 << 20  # bytes that are read at a time of what tells no size
_LARGEST_JSON = 256 << 20  # bytes
_MARKERS = ("/", "_$folder$")  # of consoles, MinIO and others; of Hadoop
_DRAFT = re.compile(r"\.[0-9a-f]{32}\.draft$")


class StorageError(UserError):
    """The storage refuses or can't be reached: the fault of no file in it."""


@dataclass(frozen=True)
class Place:
    """A file or folder somewhere: a file system and a path in it."""

    fs: fsspec.AbstractFileSystem
    path: str

    def __truediv__(self, name: str) -> "Place":
        return Place(self.fs, posixpath.join(self.path, name))

    @property
    def parent(self) -> "Place":
        """The folder that holds it."""
        return Place(self.fs, posixpath.dirname(self.path.rstrip("/")))

    @property
    def url(self) -> str:
        """The address that `place` turns back into this place."""
        return self.path if self.is_local else _address(self.fs, self.path)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """True for a path of this machine."""
        return isinstance(self.fs, LocalFileSystem)


def _address(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """With the host or account that some file systems take out of an address and put into their options."""
    address = str(fs.unstrip_protocol(path))
    scheme, _, rest = address.partition("://")
    host, port, account = (fs.storage_options.get(name) for name in ("host", "port", "account_name"))
    if account and scheme in AZURE:
        container, _, inner = rest.partition("/")
        return f"{scheme}://{container}@{account}.dfs.core.windows.net/{inner}"
    if host and not rest.startswith(str(host)):
        named = f"[{host}]" if ":" in str(host) else host
        return f"{scheme}://{named}{f':{port}' if port else ''}/{rest.lstrip('/')}"
    return address


def place(url: str, *, redirects: bool = True) -> Place:
    """The place that a URL names. Without `redirects` a web server can't send its reader elsewhere.

    Raises:
        UserError: the URL is empty, names no bucket, carries a secret or is a chain, or no file system opens it.
    """
    if not url.strip():
        raise UserError("an address is empty; name a folder or URL (. is the folder that you are in)")
    if _NAMES_NOTHING.match(url):
        raise UserError(f"{url}: names no bucket, host or folder")
    if "::" in url:
        raise UserError(f"{masked(url)}: a chain of addresses (::) opens more than it shows; name one place")
    refuse_secrets(url)
    options: dict[str, Any] = _S3_OPTIONS if url.startswith(("s3://", "s3a://")) else {}
    if not redirects and url.startswith(("http://", "https://")):
        options = {"allow_redirects": False}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except Exception as error:  # each file system has its own: no package, no server, no archive
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{url}: can't be opened ({said}); a wrong address, or its package is missing") from None
    return Place(fs, str(path))


def fetch(url: Place, limit: int = LARGEST) -> bytes:
    """All bytes of a file, of at most `limit` bytes.

    Raises:
        UnfitFile: a pipe, device or socket, or more bytes; it is not opened.
        StorageError: the store can't be reached, or has no such bucket.
        OSError: this file can't be read.
    """
    with _told(url, PermissionError, ValueError):
        if url.is_local:
            return read_regular(url.path, limit)
        if limit < LARGEST:
            return _bounded(url, limit)
        data: Any = url.fs.cat_file(url.path)
    return data


def _bounded(url: Place, limit: int) -> bytes:
    """All bytes of a remote file in one request, which asks for hardly more than it may have.

    Raises:
        UnfitFile: it has more.
    """
    if "http" in url.fs.protocol:  # a server may answer with more than is asked for
        with url.fs.open(url.path, "rb", block_size=0, size=1) as file:  # a size that is given is not asked for
            pieces: list[Any] = [b""]
            size = 0
            while size <= limit and (piece := file.read(_PIECE)):
                pieces.append(piece)
                size += len(piece)
        check_bytes(url.url, size, limit)
        return b"".join(pieces)
    try:
        data: Any = url.fs.cat_file(url.path, start=0, end=limit + 1)
    except Exception as error:
        if not _NO_RANGE.search(str(error)):
            raise
        data = url.fs.cat_file(url.path)  # an empty object has no first byte
    if len(data) > limit:
        check_bytes(url.url, max(len(data), int(url.fs.info(url.path)["size"] or 0)), limit)
    return data


def fetch_named(url: Place, limit: int = LARGEST, told: str = "") -> bytes:
    """`fetch`, of a file that a user, or a record, names; `told`: in these words.

    Raises:
        StorageError: the store can't be reached or refuses.
        UserError: there is none, it is larger, or it can't be read.
    """
    told = told or url.url
    try:
        with _told(url, ValueError):
            return fetch(url, limit)
    except FileNotFoundError:
        raise UserError(f"{told}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{told}: a folder, not a file") from None
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"{told}: can't be read ({said})") from None


def opened(url: Place) -> BinaryIO:
    """A file of which only parts are read.

    Raises:
        UnfitFile: a pipe, device or socket; it is not opened.
        StorageError: the store can't be reached, or has no such bucket.
        OSError: it can't be read.
    """
    with _told(url, PermissionError):
        file: Any = open_regular(url.path, sys.maxsize) if url.is_local else url.fs.open(url.path, "rb")
    return file


def is_away(error: BaseException) -> bool:
    """Whether a local or mounted storage is to blame for an error, so that the same may work later."""
    return isinstance(error, OSError) and error.errno in _AWAY


def exists(url: Place) -> bool:
    """Whether there is a file or folder.

    Raises:
        StorageError: the store cannot be reached or refuses.
    """
    if url.is_local:
        try:
            os.lstat(url.path)
        except OSError as error:  # fsspec is silent about every one of them
            if is_away(error):
                raise StorageError(f"{url.url}: the storage is away ({error.strerror})") from None
            return False
        return True
    with _told(url):
        url.fs.invalidate_cache()
        if isinstance(url.fs, AsyncFileSystem) and "http" not in url.fs.protocol:
            return bool(url.fs.exists(url.path))
        try:
            url.fs.info(url.path)  # the others' `exists` is silent about a server that is away
        except FileNotFoundError as error:
            cause = error.__cause__
            if cause is not None and getattr(cause, "status", None) not in _GONE:
                raise cause from None
            return False
    return True


@contextmanager
def _told(url: Place, *passed: type[Exception]) -> Iterator[None]:
    """Turn what a remote store says into one line for the user; errors of types `passed`, and of one file, go on."""
    try:
        yield
    except (*passed, UnfitFile, StorageError):
        raise
    except Exception as error:
        reason = None if url.is_local else _refusal(error, url.url.partition("://")[0])
        if reason is None:
            raise
        raise StorageError(f"{url.url}: {reason}") from None


def _refusal(error: Exception, scheme: str) -> str | None:
    """What is wrong with the store, as its clients tell it; None where one file is the matter."""
    said = " ".join(masked(str(error)).split())[:200]
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & _NO_CREDENTIALS:
        return (
            f"no credentials ({said}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role; "
            "for a bucket that anybody may read, set FSSPEC_S3_ANON=true"
        )
    if isinstance(error, FileNotFoundError) and _NO_BUCKET.search(f"{said} {type(error.__cause__).__name__}"):
        return f"no such bucket ({said}); make it, or correct the URL"
    if isinstance(error, FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError):
        return None
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return f"the store refuses ({said}); check the credentials and what they may do"
    if kinds & {"ConnectionError", "HTTPClientError", "TimeoutError", "ClientError", "ClientConnectionError"}:
        what = "the address" if scheme not in ("s3", "s3a") else "AWS_ENDPOINT_URL"
        return f"the store can't be reached ({said}); check {what} and the network"
    if isinstance(error, OSError):
        return f"the store fails, after several attempts ({said})"
    return f"the store fails ({type(error).__name__}: {said})"


def write_bytes(url: Place, data: bytes) -> None:
    """Write a file, whole or not at all; parents are made.

    Raises:
        StorageError: the store can't be reached or refuses; the disk is full or read-only.
    """
    if not url.is_local:
        with _told(url):
            url.fs.pipe_file(url.path, data)
        return
    draft = f"{url.path}.{uuid.uuid4().hex}.draft"  # _DRAFT knows the form
    try:
        os.makedirs(os.path.dirname(url.path), exist_ok=True)
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, url.path)
    except OSError as error:
        raise StorageError(f"{url.path}: can't be written: {error.strerror or error}") from None
    finally:
        if os.path.exists(draft):
            os.remove(draft)


def remove(url: Place) -> None:
    """Remove a file or folder; nothing where there is none."""
    with suppress(FileNotFoundError), _told(url):
        url.fs.rm(url.path, recursive=True)


def remove_empty(folder: Place) -> None:
    """Remove a folder with nothing in it; object stores have none."""
    if folder.is_local:
        with suppress(OSError):
            os.rmdir(folder.path)


def write_json(url: Place, record: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    write_bytes(url, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(url: Place) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    try:
        record = json.loads(fetch_named(url, _LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        said = error if isinstance(error, ValueError) else "nested too deeply"
        raise UserError(f"{url.url}: not valid JSON: {said}") from None
    if not isinstance(record, dict):
        raise UserError(f"{url.url}: a JSON object is expected, not {type(record).__name__}")
    return record


def children(url: Place) -> list[Place]:
    """Files and folders right below, by name; none where there is no such folder. What a kill left is not in it."""
    return [child for child in _listed(url) if not _DRAFT.search(child.name)]


def remove_drafts(folder: Place) -> None:
    """Remove what kills left of files right in a folder. Only for who knows that nobody else writes there."""
    for file in _listed(folder):
        if _DRAFT.search(file.name):
            remove(file)


def _listed(url: Place) -> list[Place]:
    url.fs.invalidate_cache()
    try:
        with _told(url):
            entries = url.fs.ls(url.path, detail=False)
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise StorageError(f"{url.url}: can't be listed: {error.strerror}") from None
    paths = [str(entry).rstrip("/") for entry in sorted(entries)]
    return [Place(url.fs, path) for path in paths if path != url.path.rstrip("/")]  # a marker of the folder itself


def files_below(url: Place) -> list[Place]:
    """All files below a folder that can be listed, by path."""
    return [Place(url.fs, path) for path in listed_below(url).files]


def listed_below(url: Place) -> Walk:
    """All files below a folder, through links to folders, too; and the folders that were not read. Empty objects that
    stand for folders in a store (`a/`, `a_$folder$`) are no files.

    Raises:
        StorageError: the store can't be reached or refuses; this folder itself can't be listed.
    """
    if not url.is_local:
        with _told(url):
            url.fs.invalidate_cache()
            found: Any = url.fs.find(url.path, detail=True)
        return Walk(sorted(path for path, info in found.items() if not _is_marker(path, info)), {}, {})
    found_here = walk(url.path)
    if url.path in found_here.refused and os.path.lexists(url.path):
        raise StorageError(f"{url.url}: can't be listed: {found_here.refused[url.path]}")
    return found_here


def _is_marker(path: str, info: dict[str, Any]) -> bool:
    return path.endswith(_MARKERS) and not info.get("size")
