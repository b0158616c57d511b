"""Folders of this machine, walked through links: clusters and caches keep parts of a data set elsewhere.

Links to folders are followed, as `os.walk(followlinks=True)`, timm and fastai do: whoever types a folder's name means
what lies below it. Each real folder is read once, by the path that needs no link where there is one, so no link makes a
loop or a copy. Two kinds are not followed, and are told: a link to a folder around itself or around the one that was
typed, or around any other that was read, for it would bring in all that lies beside; and one to the system's own files,
to all homes or all of a home, as a stranger's archive may hold.
"""

import heapq
import os
from typing import NamedTuple

_OF_SYSTEM = ("/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys")
# what systems keep below /var; other folders there are disks that somebody has put there for data
_OF_VAR = ("account", "backups", "cache", "crash", "db", "lib", "lock", "log", "mail", "root", "run", "spool")
_OF_USERS = ("/dev/shm", "/run/media")  # a disk in memory, where data sets are kept for speed; a desktop's other disks
_ALL_HOMES = ("/home", "/Users", "/var", "/var/home")  # as a whole no data set, though one may lie below


class Walk(NamedTuple):
    """What lies below a folder, by path; each path begins with the folder's."""

    files: list[str]
    """All that is no folder."""
    refused: dict[str, str]
    """Folders that were not read, and why."""
    same: dict[str, str]
    """Folders that were read before by another path, and by which."""
    followed: int = 0
    """Links to folders that were read."""
    outside: int = 0
    """Of these, how many lead out of the folder."""


def walk(top: str) -> Walk:
    """All files below a folder, behind links to folders, too."""
    return _Walker(top).walk()


class _Walker:
    def __init__(self, top: str) -> None:
        self._top, self._real_top = top, os.path.realpath(top)
        self._found = Walk([], {}, {})
        self._read: dict[str, str] = {}  # real path → path
        self._above: set[str] = set()  # real paths of all folders around those that were read
        self._links: list[tuple[str, str]] = []  # real path, path
        home = os.path.realpath(os.path.expanduser("~"))
        self._system = [os.path.realpath(one) for one in (*_OF_SYSTEM, *(f"/var/{name}" for name in _OF_VAR))]
        self._users = [os.path.realpath(one) for one in _OF_USERS] + ([home] if home != "/" else [])
        self._homes = {os.path.realpath(one) for one in _ALL_HOMES} | {home}

    def walk(self) -> Walk:
        self._below(self._top, self._real_top)
        followed = outside = 0
        while self._links:  # the outer of two folders comes first
            real, link = heapq.heappop(self._links)
            if real not in self._read and (why := self._why_not(real)) is not None:
                self._found.refused[link] = why
                continue
            followed += real not in self._read
            outside += real not in self._read and not _holds(self._real_top, real)
            self._below(link, real)
        return self._found._replace(files=sorted(self._found.files), followed=followed, outside=outside)

    def _why_not(self, real: str) -> str | None:
        if real in self._above:
            return "a link to a folder around it, or around another that is read, which is not followed"
        if real in self._homes:
            return "a link to a whole home or more, which is not followed"
        if any(_holds(one, real) for one in self._system) and not any(_holds(one, real) for one in self._users):
            return "a link to files of the system, which is not followed"
        return None

    def _below(self, path: str, real: str) -> None:
        """Read a folder and those below it that need no link."""
        due = [(path, real)]
        outer = real
        while (outer := os.path.dirname(outer)) not in self._above:
            self._above.add(outer)
        while due:
            folder, real = due.pop()
            if real in self._read:
                self._found.same[folder] = self._read[real]
                continue
            self._read[real] = folder
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                self._found.refused[folder] = error.strerror or type(error).__name__
                continue
            for entry in entries:
                if entry.is_symlink() and os.path.isdir(entry.path):
                    heapq.heappush(self._links, (os.path.realpath(entry.path), entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    due.append((entry.path, os.path.join(real, entry.name)))
                else:
                    self._found.files.append(entry.path)


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
