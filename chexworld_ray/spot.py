"""Notice that a spot machine is about to be taken back, as the clouds' metadata servers tell it. No Ray here.

Sources: AWS "Spot Instance interruption notices" with IMDSv2, GCP "Preemptible VM metadata: instance/preempted", Azure
"Scheduled Events" (2020-07-01).
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from chexworld_ray.errors import UserError

ENDPOINTS = {
    "aws": "http://169.254.169.254",
    "gcp": "http://metadata.google.internal",
    "azure": "http://169.254.169.254",
}
SHORTEST_NOTICE = 30.0  # s: what GCP and Azure promise, where no time is told
TOKEN_SECONDS = 21_600  # how long an IMDSv2 token lives, at most
TIMEOUT = 5.0  # s for a whole answer: the server is on the machine itself
LARGEST = 2**18  # bytes of an answer
AZURE_API = "2020-07-01"


@dataclass(frozen=True)
class Notice:
    """This machine goes at `deadline` (seconds since 1970)."""

    deadline: float
    reason: str


class MetadataError(Exception):
    """The metadata server can't be reached, or answers what it should not."""


@dataclass
class AwsMetadata:
    """IMDSv2: a token is fetched with PUT, and again where it is no longer taken."""

    endpoint: str
    _token: str = ""

    def notice(self) -> Notice | None:
        """`instance-action` is 404 until a notice is given, some two minutes ahead."""
        answer = self._action() if self._token else None
        if answer is None or answer[0] == 401:
            self._token = self._fresh_token()
            answer = self._action()
        status, text = answer
        if status == 404:
            return None
        action = _object(status, text)
        if action.get("action") not in ("terminate", "stop", "hibernate"):
            return None
        return Notice(_iso(action.get("time")), f"AWS spot {action['action']}")

    def _action(self) -> tuple[int, str]:
        headers = {"X-aws-ec2-metadata-token": self._token}
        return _ask(f"{self.endpoint}/latest/meta-data/spot/instance-action", headers)

    def _fresh_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        status, text = _ask(f"{self.endpoint}/latest/api/token", headers, "PUT")
        if status != 200:
            raise MetadataError(f"no IMDSv2 token (status {status})")
        return text


@dataclass
class GcpMetadata:
    """`instance/preempted` turns TRUE some 30 s ahead."""

    endpoint: str

    def notice(self) -> Notice | None:
        """Notice from now on for the 30 s that GCP promises."""
        status, text = _ask(f"{self.endpoint}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
        if status != 200 or text.strip() not in ("TRUE", "FALSE"):
            raise MetadataError(f"instance/preempted answers {status} {text[:60]!r}")
        return Notice(time.time() + SHORTEST_NOTICE, "GCP preemption") if text.strip() == "TRUE" else None


@dataclass
class AzureMetadata:
    """Scheduled Events name the machines that they are for: a scale set's others are not ours."""

    endpoint: str
    _name: str = ""

    def notice(self) -> Notice | None:
        """The soonest event of type Preempt or Terminate for this machine."""
        if not self._name:
            address = f"{self.endpoint}/metadata/instance/compute/name?api-version=2021-02-01&format=text"
            status, self._name = _ask(address, {"Metadata": "true"})
            if status != 200:
                self._name = ""
                raise MetadataError(f"no name of this machine (status {status})")
        address = f"{self.endpoint}/metadata/scheduledevents?api-version={AZURE_API}"
        events = _object(*_ask(address, {"Metadata": "true"})).get("Events", [])
        if not (isinstance(events, list) and all(isinstance(event, dict) for event in events)):
            raise MetadataError("answers with Events that are no list of objects")
        found = [
            Notice(_http_date(event.get("NotBefore")), f"Azure {event['EventType']}")
            for event in events
            if event.get("EventType") in ("Preempt", "Terminate") and self._name in (event.get("Resources") or ())
        ]
        return min(found, key=lambda notice: notice.deadline, default=None)


Metadata = AwsMetadata | GcpMetadata | AzureMetadata
KINDS: dict[str, Callable[[str], Metadata]] = {"aws": AwsMetadata, "gcp": GcpMetadata, "azure": AzureMetadata}


def metadata(cloud: str, endpoint: str | None) -> Metadata:
    """The metadata server of a cloud (aws, gcp, azure), at its own address or at another.

    Raises:
        UserError: that is not an address of a server.
    """
    try:
        parts = urlsplit(endpoint or ENDPOINTS[cloud])
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound:
        raise UserError(f"--endpoint {endpoint}: http://HOST:PORT, please")
    return KINDS[cloud]((endpoint or ENDPOINTS[cloud]).rstrip("/"))


def wait_for_notice(server: Metadata, poll_seconds: float, say: Callable[[str], None]) -> Notice:
    """Ask until there is a notice. A server that fails is told of once each time it begins, and asked again."""
    failing = False
    while True:
        try:
            found = server.notice()
            if failing:
                say(f"{server.endpoint} answers again")
            failing = False
            if found is not None:
                return found
        except MetadataError as error:
            if not failing:
                say(f"{server.endpoint}: {error}; asked again every {poll_seconds:g} s")
            failing = True
        time.sleep(poll_seconds)


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> tuple[int, str]:
    """Status and text. Never through a proxy, for the server is on the machine itself, and never to another place."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection, late = kind(parts.netloc, timeout=TIMEOUT), threading.Event()
    try:
        connection.connect()
        end = threading.Timer(TIMEOUT, _cut, (connection.sock, late))
        end.daemon = True
        end.start()
        try:
            connection.request(method, urlunsplit(("", "", parts.path, parts.query, "")), headers=headers)
            answer = connection.getresponse()
            data = answer.read(LARGEST + 1)
        finally:
            end.cancel()
    except (OSError, HTTPException, ValueError) as error:
        said = f"no whole answer in {TIMEOUT:g} s" if late.is_set() else f"can't be reached ({error})"
        raise MetadataError(said) from None
    finally:
        connection.close()
    if late.is_set():
        raise MetadataError(f"no whole answer in {TIMEOUT:g} s")
    if len(data) > LARGEST:
        raise MetadataError(f"answers with more than {LARGEST} bytes")
    return answer.status, data.decode(errors="replace") if answer.status == 200 else ""


def _cut(connected: socket.socket, late: threading.Event) -> None:
    """What comes too late comes no more: a timeout of the socket alone would begin anew with each byte."""
    late.set()
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _object(status: int, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if status != 200 or not isinstance(record, dict):
        raise MetadataError(f"answers {status} {text[:60]!r}")
    return record


def _iso(text: Any) -> float:
    """Seconds since 1970 of 2026-11-25T08:22:00Z; the shortest notice from now where there is none."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return time.time() + SHORTEST_NOTICE
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _http_date(text: Any) -> float:
    """Seconds since 1970 of "Wed, 25 Nov 2026 08:22:00 GMT"; empty once the event has begun."""
    try:
        return parsedate_to_datetime(str(text)).timestamp()
    except ValueError:
        return time.time() + SHORTEST_NOTICE
