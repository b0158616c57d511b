"""The three clouds' metadata protocols, spoken by a real server on loopback."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chexworld_ray import spot
from chexworld_ray.errors import UserError
from chexworld_ray.spot import MetadataError, metadata, wait_for_notice

Answer = tuple[int, str]
DEADLINE = 1_795_600_000.0


@contextmanager
def serving(answer: Callable[[str, str, dict[str, str]], Answer]) -> Iterator[str]:
    """A server that answers (method, path, headers in lower case)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answer(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # s until it sees its end
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Aws:
    """IMDSv2: no answer without a token; a token ends; 404 until there is a notice."""

    def __init__(self) -> None:
        self.tokens, self.valid, self.action = 0, "", None

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        if (method, path) == ("PUT", "/latest/api/token"):
            assert 1 <= int(headers["x-aws-ec2-metadata-token-ttl-seconds"]) <= 21_600
            self.tokens += 1
            self.valid = f"token-{self.tokens}"
            return 200, self.valid
        assert path == "/latest/meta-data/spot/instance-action"
        if headers.get("x-aws-ec2-metadata-token") != self.valid:
            return 401, ""
        return (404, "") if self.action is None else (200, json.dumps(self.action))


def test_aws_tells_time_and_action_and_a_token_that_ended_is_renewed() -> None:
    aws = Aws()
    with serving(aws) as url:
        server = metadata("aws", url)
        assert server.notice() is None
        assert server.notice() is None
        assert aws.tokens == 1
        aws.valid = "another"  # as after six hours
        aws.action = {
            "action": "terminate",
            "time": datetime.fromtimestamp(DEADLINE, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        found = server.notice()
    assert aws.tokens == 2
    assert found is not None
    assert found.deadline == DEADLINE
    assert "terminate" in found.reason


def test_gcp_gives_thirty_seconds() -> None:
    said = ["FALSE"]

    def answer(_: str, path: str, headers: dict[str, str]) -> Answer:
        if headers.get("metadata-flavor") != "Google" or path != "/computeMetadata/v1/instance/preempted":
            return 403, ""
        return 200, said[0]

    with serving(answer) as url:
        server = metadata("gcp", url)
        assert server.notice() is None
        said[0] = "TRUE\n"
        found = server.notice()
    assert found is not None
    assert found.deadline == pytest.approx(time.time() + 30, abs=5)


def test_azure_tells_of_other_machines_and_other_events_too() -> None:
    events: list[dict[str, object]] = [
        {"EventType": "Preempt", "Resources": ["other"], "NotBefore": formatdate(DEADLINE - 9, usegmt=True)},
        {"EventType": "Freeze", "Resources": ["mine"], "NotBefore": formatdate(DEADLINE - 8, usegmt=True)},
    ]

    def answer(_: str, path: str, headers: dict[str, str]) -> Answer:
        if headers.get("metadata") != "true":
            return 400, ""
        if path.startswith("/metadata/instance/compute/name?"):
            return 200, "mine"
        assert path == "/metadata/scheduledevents?api-version=2020-07-01"
        return 200, json.dumps({"DocumentIncarnation": 1, "Events": events})

    with serving(answer) as url:
        server = metadata("azure", url)
        assert server.notice() is None
        events.append({"EventType": "Preempt", "Resources": ["mine"], "NotBefore": formatdate(DEADLINE, usegmt=True)})
        found = server.notice()
        events[-1]["NotBefore"] = ""  # it has begun
        begun = server.notice()
    assert found is not None
    assert found.deadline == DEADLINE
    assert begun is not None
    assert begun.deadline > time.time()


@contextmanager
def hostile(send: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does as it likes with each connection."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                taken, _ = listening.accept()
            except OSError:
                return
            with taken, suppress(OSError):
                taken.recv(4096)
                send(taken)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def drip(begin: bytes, drop: bytes) -> Callable[[socket.socket], None]:
    """Never silent for as long as a timeout of one read, and never done."""

    def send(taken: socket.socket) -> None:
        taken.sendall(begin)
        while True:
            taken.sendall(drop)
            threading.Event().wait(0.02)

    return send


def endless(taken: socket.socket) -> None:
    taken.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        taken.sendall(b"TRUE" * 10_000)


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
@pytest.mark.parametrize(
    ("send", "words"),
    [
        (drip(b"HTTP/1.1 200 OK\r\n\r\n", b" "), "no whole answer"),
        (drip(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nTRUE", b" "), "no whole answer"),
        (drip(b"HTTP/1.1 200 OK\r\nX: ", b"x"), "no whole answer"),
        (endless, f"more than {spot.LARGEST} bytes"),
    ],
    ids=["body that drips", "body of a length", "headers that drip", "body without an end"],
)
def test_an_answer_without_an_end_is_cut(
    cloud: str, send: Callable[[socket.socket], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spot, "TIMEOUT", 0.3 if words == "no whole answer" else 60.0)
    with hostile(send) as url, pytest.raises(MetadataError, match=words):
        metadata(cloud, url).notice()


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_a_redirect_is_not_followed(cloud: str) -> None:
    asked: list[str] = []

    def elsewhere(_: str, path: str, __: dict[str, str]) -> Answer:
        asked.append(path)
        return 200, "TRUE"

    with serving(elsewhere) as other:
        text = f"HTTP/1.1 302 Found\r\nLocation: {other}/computeMetadata/v1/instance/preempted\r\n\r\nTRUE"
        with hostile(lambda taken: taken.sendall(text.encode())) as url, pytest.raises(MetadataError, match="302"):
            metadata(cloud, url).notice()
    assert asked == []


@pytest.mark.parametrize("endpoint", ["file:///etc/passwd", "ftp://host", "http://", "metadata", "http://host:port"])
def test_what_is_no_server_is_one_line(endpoint: str) -> None:
    with pytest.raises(UserError, match="--endpoint"):
        metadata("gcp", endpoint)


@pytest.mark.parametrize("answer", ['{"Events": 5}', '{"Events": [7]}', "[" * 100_000, "[]", '{"Events": {}}'])
def test_odd_answers_are_told_of(answer: str) -> None:
    """Neither an end of watching nor a notice; a name or a token with a line break goes into no header either."""
    with serving(lambda *_: (200, answer)) as url, pytest.raises(MetadataError):
        metadata("azure", url).notice()
    with serving(lambda *_: (200, f"a\r\n{answer}")) as url, pytest.raises(MetadataError):
        metadata("aws", url).notice()


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_a_server_that_fails_is_told_of_once_and_asked_again(cloud: str) -> None:
    """Another cloud's server, a broken one, none: never an end of watching, never a false notice."""
    asked: list[str] = []

    def answer(_: str, path: str, __: dict[str, str]) -> Answer:
        asked.append(path)
        return (500, "") if len(asked) % 2 else (200, "<html>")

    with serving(answer) as url:
        server = metadata(cloud, url)
        for _ in range(4):
            with pytest.raises(MetadataError):
                server.notice()
    with pytest.raises(MetadataError, match="can't be reached"):
        server.notice()

    answers = iter([MetadataError("away"), MetadataError("away"), None, "notice"])
    said: list[str] = []

    class Server:
        endpoint = "http://here"

        def notice(self) -> object:
            found = next(answers)
            if isinstance(found, MetadataError):
                raise found
            return found

    assert wait_for_notice(Server(), 0.001, said.append) == "notice"  # type: ignore[arg-type]
    assert [text.split(";")[0] for text in said] == ["http://here: away", "http://here answers again"]
