"""Every path is a URL: local, s3://, gs://, memory://, whatever fsspec opens. The only room that knows.

A write is whole or not there: local files are written beside their place and renamed; object stores
publish an object when its upload completes.
"""

import json
import os
import posixpath
import re
import uuid
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from chexworld_ray.errors import UserError

# S3-compatible servers answer a read of a part with the checksum of the whole object, or refuse checksummed writes;
# what must be whole (shards, checkpoints) carries a sha256 of its own
_S3_OPTIONS: dict[str, Any] = {
    "config_kwargs": {
        "response_checksum_validation": "when_required",
        "request_checksum_calculation": "when_required",
    }
}
_USER_INFO = re.compile(r"://[^/@]+@")


@dataclass(frozen=True)
class Place:
    """A file or folder somewhere: a file system and a path in it."""

    fs: fsspec.AbstractFileSystem
    path: str

    def __truediv__(self, name: str) -> "Place":
        return Place(self.fs, posixpath.join(self.path, name))

    @property
    def url(self) -> str:
        """The address that `place` turns back into this place."""
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """True for a path of this machine."""
        return isinstance(self.fs, LocalFileSystem)


def place(url: str) -> Place:
    """The place that a URL names.

    Raises:
        UserError: the URL carries a secret, or no file system opens it.
    """
    if _USER_INFO.search(url):
        raise UserError(
            f"{_USER_INFO.sub('://***@', url)}: a URL with a user name or password would end up in config files "
            "and logs; set the credentials in the environment instead (AWS_ACCESS_KEY_ID, …)"
        )
    try:
        fs, path = fsspec.core.url_to_fs(url, **(_S3_OPTIONS if url.startswith("s3://") else {}))
    except (ValueError, ImportError) as error:
        raise UserError(f"{url}: {error}") from None
    return Place(fs, str(path))


def fetch(url: Place) -> bytes:
    """All bytes of a file."""
    data = url.fs.cat_file(url.path)
    assert isinstance(data, bytes)
    return data


def exists(url: Place) -> bool:
    """Whether there is a file or folder.

    Raises:
        UserError: the store cannot be reached or refuses.
    """
    try:
        url.fs.invalidate_cache()
        return bool(url.fs.exists(url.path))
    except Exception as error:
        raise UserError(f"{url.url}: cannot be reached: {type(error).__name__}: {error}") from None


def write_bytes(url: Place, data: bytes) -> None:
    """Write a file, whole or not at all; parents are made."""
    if not url.is_local:
        url.fs.pipe_file(url.path, data)
        return
    os.makedirs(os.path.dirname(url.path), exist_ok=True)
    draft = f"{url.path}.{uuid.uuid4().hex}.draft"
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, url.path)
    finally:
        if os.path.exists(draft):
            os.remove(draft)


def write_json(url: Place, record: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    write_bytes(url, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(url: Place) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    try:
        record = json.loads(fetch(url))
    except FileNotFoundError:
        raise UserError(f"{url.url}: no such file") from None
    except ValueError as error:
        raise UserError(f"{url.url}: not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"{url.url}: a JSON object is expected, not {type(record).__name__}")
    return record


def children(url: Place) -> list[Place]:
    """Files and folders right below, by name; empty where there is no such folder."""
    url.fs.invalidate_cache()
    try:
        entries = url.fs.ls(url.path, detail=False)
    except FileNotFoundError:
        return []
    return [Place(url.fs, str(entry).rstrip("/")) for entry in sorted(entries)]


def files_below(url: Place) -> list[Place]:
    """All files below a folder, by path."""
    url.fs.invalidate_cache()
    return [Place(url.fs, path) for path in sorted(url.fs.find(url.path))]
