"""What a file may name. Names and addresses in tables, manifests and records were written by whoever made the file.

A name is a plain one: it leads to nothing but what lies beside it. An address leads below the folder that the file
speaks for, or below what the user named. Only what a user types may lead anywhere.
"""

import posixpath
import re
from collections.abc import Sequence
from urllib.parse import unquote

from chexworld_ray.addresses import masked
from chexworld_ray.errors import UserError
from chexworld_ray.storage import Place, place

_NAME = re.compile(r"(?!\.)[\w.-]{1,200}")
_VERSION = re.compile(r"[0-9a-f]{8,64}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = ("file://", "local://")


def plain_name(name: object, where: str) -> str:
    """The name of a file or folder as a record gives it: letters, digits, `_`, `-` and `.`, but no dot at its start.

    Raises:
        UserError: it is another; `where` is named.
    """
    return _formed(name, _NAME, where, "is no plain name of a file; such records are not read")


def data_version(version: object, where: str) -> str:
    """The version of a data set as a record gives it, 8 to 64 hexadecimal digits.

    Raises:
        UserError: it is another; `where` is named.
    """
    return _formed(version, _VERSION, where, "is no version of a data set (hexadecimal digits)")


def _formed(value: object, form: re.Pattern[str], where: str, otherwise: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise UserError(f"{where}: {_shown(str(value))!r} {otherwise}")
    return value


def allowed_prefixes(typed: Sequence[str]) -> tuple[str, ...]:
    """What a user allows, as `resolve` compares it: local paths from the root, URLs, or protocols (`s3://`).

    Raises:
        UserError: no file system opens one.
    """
    return tuple(
        text if _URL.match(text) and not text.startswith(_LOCAL) else posixpath.normpath(place(text).path)
        for text in typed
    )


def resolve(root: Place, address: str, allowed: Sequence[str] = ()) -> Place:
    """The place of an address that stands in a file: below `root`, or below what the user `allowed`.

    Raises:
        UserError: it leads elsewhere, or nothing opens it.
    """
    local = next((address.removeprefix(word) for word in _LOCAL if address.startswith(word)), address)
    if "://" in local:
        return _of_url(root, local, allowed)
    if ".." not in local.split("/") and not local.startswith("/"):
        return root / local
    if not (root.is_local or local.startswith("/")):
        raise _outside(root, address)
    path = posixpath.normpath(posixpath.join(root.path, local))
    here = [posixpath.normpath(root.path)] if root.is_local else []
    if not any(_below(path, one) for one in (*here, *allowed) if not _URL.match(one)):
        raise _outside(root, address)
    return place(path)


def _of_url(root: Place, url: str, allowed: Sequence[str]) -> Place:
    """No chain, and no step up, however it is spelled, leads out of what was allowed."""
    parts = re.split(r"[/\\]", unquote(url))
    named = [one for one in (*allowed, root.url) if _URL.match(one)]
    if "::" in url or ".." in parts or not any(_below(url, one) for one in named):
        raise _outside(root, url)
    return place(url, redirects=False)


def recorded(home: Place, address: str, allowed: Sequence[str] = ()) -> Place:
    """The place of an address that stands in a record at `home`: in the store that holds the record, this machine's
    disks or a bucket, or below what the user `allowed`.

    So no record makes this program speak to a store, as whom it may, that nobody has typed the name of.

    Raises:
        UserError: it leads elsewhere, or nothing opens it.
    """
    protocol, mark, rest = home.url.partition("://")
    own = "/" if home.is_local else f"{protocol}{mark}{rest.partition('/')[0]}/"
    return resolve(home, address, (*allowed, own))


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")


def _outside(root: Place, address: str) -> UserError:
    return UserError(
        f"{_shown(address)} leads out of {root.url}; where that is meant, --allow-prefix names what may be read as well"
    )


def _shown(text: str) -> str:
    """Without passwords and signatures, and no longer than a line."""
    return masked(text)[:200]
