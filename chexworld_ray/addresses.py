"""Passwords in addresses: one function masks what is printed, one refuses what would be kept or sent.

An address may carry a secret before its host (user:password@) or in its query (a signature, a token, a key). An
address alone is read exactly. In other text nobody knows where a password with odd characters ends, and rather too much
is masked than too little.
"""

import re
from urllib.parse import unquote

from chexworld_ray.errors import UserError

MASK = "***"
_USER, _SIGNATURE = "user name or password", "signature or token"
AZURE = {"abfs", "abfss", "az", "wasb", "wasbs"}
_CONTAINER = re.compile(r"\$?[a-z0-9-]{1,63}")  # abfs://CONTAINER@ACCOUNT.dfs.core.windows.net
_WITH_PORT = {"", "http", "https", "hdfs", "webhdfs", "ftp", "ftps", "sftp", "ssh", "smb", "tcp", "grpc", "ray"}
_PATHS = {"file", "local"}
_CHAINED = {"zip", "tar", "libarchive", "simplecache", "filecache", "blockcache", "dir"}  # zip://INNER::OUTER
_ARN = re.compile(r"arn:aws[\w-]*:s3[\w-]*:")  # s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME
_BEGIN = re.compile(r"(?<![\w+.-])(?:([A-Za-z][A-Za-z0-9+.-]+):/{1,3}|(?<![:/])//)(?!/)")
_END = re.compile(r"[/?#]|,(?=[A-Za-z][A-Za-z0-9+.-]+:/)")
_PORT = re.compile(r"\d{1,5}(?!\w)")
_ASKED = re.compile(r"(?i)[?#]|%3f|%23")
_FIELD = re.compile(r"[?&;#]?[\w.%-]+=?")  # of a query: its name, with what begins and ends it
_AND = re.compile(r"(?i)[?&;#]|%3f|%23|%26")
_IS = re.compile(r"(?i)=|%3d")
_SECRET_NAME = re.compile(
    r"(?i)signature|token|secret|passw|credential|apikey|accesskey|accountkey"
    r"|(?:[?&;#_.-]|%3f|%23|%26)(?:sig|key|auth|pass|pwd)(?=[_.=-]|%3d)"
)
_LONGEST = 4096  # characters of a word; an address is shorter


def masked(text: str) -> str:
    """Text for a user's eyes, a log or another program: without what its addresses hold of passwords and signatures."""
    text = re.sub(r"\S+", _unsigned, text)
    kept, at = [], 0
    while found := _BEGIN.search(text, at):
        kept.append(text[at : found.end()])
        at = found.end()
        hidden = _hidden((found[1] or "").lower(), text[at:])
        if hidden:
            kept.append(MASK)
            at += hidden
    return "".join([*kept, text[at:]])


def _unsigned(word: re.Match[str]) -> str:
    """A word without a query that names a secret; cut where no address is so long."""
    text = word[0] if len(word[0]) <= _LONGEST else word[0][:_LONGEST] + "…"
    begin = _ASKED.search(text)
    if begin and _names_secret(text[begin.start() :]):
        return f"{text[: begin.start()]}{begin[0][0]}{MASK}"
    return text


def _names_secret(text: str) -> bool:
    """Whether a field of a query in it has a name as secrets have. In steps, so that the time grows with the length."""
    for field in _FIELD.finditer(text):
        begin = _AND.search(field[0])
        ends = [found.end() for found in _IS.finditer(field[0])]
        if begin and ends and _SECRET_NAME.search(field[0][: ends[-1]], begin.start()):
            return True
    return False


def refuse_secrets(address: str) -> None:
    """Make sure that an address, or a list of them, may be kept in files, sent to a cluster and printed.

    Raises:
        UserError: it has a user's name or a password, or a secret in its query; none of it is told.
    """
    found = _secret(address) or _secret(unquote(address))
    if found:
        raise UserError(
            f"{_shown(address, found)}: an address with a {found} would end up in config files and logs, and on the "
            "cluster; set the credentials in the environment instead (AWS_ACCESS_KEY_ID, AZURE_STORAGE_SAS_TOKEN, …)"
        )


def _shown(address: str, found: str) -> str:
    """As much of a refused address as can't be part of its secret."""
    begin = _BEGIN.search(address)
    scheme = address[: begin.end()] if begin else ""
    before, *query = re.split(r"[?#]", address, maxsplit=1)
    if found == _USER:
        _, at, host = address.partition("@")
        whole = not query and not re.search("@|%40", host) and not _secret(host)
        return scheme + MASK + (at + host if whole else "")
    sure = query and before.startswith(scheme) and not re.search("[@:]|%40", before[len(scheme) :])
    return f"{before}?{MASK}" if sure else scheme + MASK


def _secret(address: str) -> str:
    """What an address, or a list of them, carries that it should not; empty where it may be kept."""
    for begin in _BEGIN.finditer(address):
        scheme, rest = (begin[1] or "").lower(), address[begin.end() :]
        authority = _END.split(rest, maxsplit=1)[0]
        if scheme in _CHAINED:
            authority = authority.partition("::")[0]
        if scheme in _PATHS:
            continue
        user, at, host = authority.rpartition("@")
        if at and not (scheme in AZURE and _CONTAINER.fullmatch(user)):
            return _USER
        if not _is_host(scheme, host):
            return _USER
        if _names_secret(rest):
            return _SIGNATURE
    return ""


def _is_host(scheme: str, host: str) -> bool:
    """Whether it is a bucket, or a machine with or without port; else what stands there is user:password."""
    _, colon, port = re.sub(r"^\[[0-9a-fA-F:.]*\]", "", host).partition(":")
    if not colon or _ARN.match(host):
        return True
    return scheme in _WITH_PORT and (not port or port.isdecimal())


def _hidden(scheme: str, rest: str) -> int:
    """How many characters of what follows a scheme in a text are to be masked."""
    if scheme in _PATHS:
        return 0
    token = _token(rest)
    begin = re.match(r"[^\s/@:?#\[]*:(?=\S)", rest)
    chained = begin and scheme in _CHAINED and rest[begin.end()] == ":"
    port = begin and scheme in _WITH_PORT and _PORT.match(rest, begin.end())
    if begin and not (chained or port or _ARN.match(rest)):
        end = max(token.rfind("@"), rest.rfind("@") if "@" not in token else 0)
        return end if end > 0 else len(token)
    user, at, _ = _END.split(token, maxsplit=1)[0].rpartition("@")
    if at and scheme in AZURE and _CONTAINER.fullmatch(user):
        return 0
    ends = [found.start() for found in re.finditer("@|%40", token)]
    if not ends:
        return 0
    before = token[: ends[-1]]
    return len(before) if "/" not in before or re.search("(?i):|%3a", before) else 0


def _token(rest: str) -> str:
    """Up to the next space, or the next address of a list."""
    token = re.match(r"\S*", rest)
    assert token is not None
    following = re.search(r",[A-Za-z][A-Za-z0-9+.-]+:/", token[0])
    return token[0][: following.start()] if following else token[0]
