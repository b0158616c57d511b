"""Notice that a spot machine is about to be taken back, as the clouds' metadata servers tell it. No Ray here.

Sources: AWS "Spot Instance interruption notices" with IMDSv2, GCP "Preemptible VM metadata: instance/preempted", Azure
"Scheduled Events" (2020-07-01).
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

ENDPOINTS = {
    "aws": "http://169.254.169.254",
    "gcp": "http://metadata.google.internal",
    "azure": "http://169.254.169.254",
}
SHORTEST_NOTICE = 30.0  # s: what GCP and Azure promise, where no time is told
TOKEN_SECONDS = 21_600  # how long an IMDSv2 token lives, at most
TIMEOUT = 5.0  # s for an answer: the server is on the machine itself
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
        found = [
            Notice(_http_date(event.get("NotBefore")), f"Azure {event['EventType']}")
            for event in _object(*_ask(address, {"Metadata": "true"})).get("Events", [])
            if event.get("EventType") in ("Preempt", "Terminate") and self._name in event.get("Resources", [])
        ]
        return min(found, key=lambda notice: notice.deadline, default=None)


Metadata = AwsMetadata | GcpMetadata | AzureMetadata
KINDS: dict[str, Callable[[str], Metadata]] = {"aws": AwsMetadata, "gcp": GcpMetadata, "azure": AzureMetadata}


def metadata(cloud: str, endpoint: str | None) -> Metadata:
    """The metadata server of a cloud (aws, gcp, azure), at its own address or at another."""
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
    request = urllib.request.Request(url, headers=headers, method=method)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # never through a proxy: it is not its machine
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError as error:
        raise MetadataError(f"can't be reached ({error})") from None


def _object(status: int, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError:
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
