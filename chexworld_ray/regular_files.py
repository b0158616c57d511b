"""Local files that are opened only where they are files: no pipe, device, socket, nor anything larger than is wanted.

Links are followed: data sets are often farms of links. What they lead to is what counts.
"""

import os
import stat
from typing import BinaryIO

from chexworld_ray.errors import UserError

LARGEST = 16 << 30  # bytes; AdamW's moments of a ViT-giant have 8.2e9
_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_PIECE = 1 << 20


class UnfitFile(UserError):
    """What stands there is no regular file, or larger than what is read."""

    def __init__(self, url: str, reason: str, detail: str) -> None:
        super().__init__(url, reason, detail)
        self.reason, self.detail, self._url = reason, detail, url

    def __str__(self) -> str:
        return f"{self._url}: {self.reason}: {self.detail}"


def check_regular(path: str, limit: int = LARGEST) -> None:
    """Refuse a path without opening it.

    Raises:
        UnfitFile: no regular file, or one of more than `limit` bytes.
        OSError: nothing is there, or a folder.
    """
    _check(path, os.stat(path), limit)


def check_bytes(url: str, size: int, limit: int) -> None:
    """Refuse what a store says to be larger than `limit`.

    Raises:
        UnfitFile: it is.
    """
    if size > limit:
        raise UnfitFile(url, "too large", f"{size} bytes, at most {limit} are read")


def open_regular(path: str, limit: int = LARGEST) -> BinaryIO:
    """A file, opened to be read. It is looked at before it is opened, for opening some devices does something, and
    after, for it may have been exchanged; opening never waits.

    Raises:
        UnfitFile: no regular file, or one of more than `limit` bytes.
        OSError: nothing is there, a folder, or it can't be read.
    """
    check_regular(path, limit)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check(path, os.fstat(descriptor), limit)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str, limit: int = LARGEST) -> bytes:
    """All bytes of a file; of one that grows meanwhile no more than `limit`.

    Raises:
        UnfitFile: no regular file, or one of more than `limit` bytes.
        OSError: nothing is there, a folder, or it can't be read.
    """
    with open_regular(path, limit) as file:
        pieces = [file.read(os.fstat(file.fileno()).st_size + 1)]
        size = len(pieces[0])
        while pieces[-1] and size <= limit:
            pieces.append(file.read(_PIECE))
            size += len(pieces[-1])
    check_bytes(path, size, limit)
    return pieces[0] if size == len(pieces[0]) else b"".join(pieces)


def _check(path: str, found: os.stat_result, limit: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{path} is a folder")
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise UnfitFile(path, "not a regular file", kind)
    check_bytes(path, found.st_size, limit)
