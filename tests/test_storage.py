"""Places: local and on a real S3 server, what goes wrong there, and what the user is told."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem

from chexworld_ray.benchmarks.object_store import SECRET, Answer, environment, free_port, proxy, s3_server
from chexworld_ray.errors import UserError
from chexworld_ray.regular_files import UnfitFile
from chexworld_ray.storage import (
    Place,
    StorageError,
    children,
    exists,
    fetch,
    files_below,
    opened,
    place,
    remove,
    write_bytes,
)

Use = Callable[..., None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    with s3_server(folder) as port:
        yield port


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Point S3 clients of this process at a port, with other variables where given."""

    def set_environment(port: int, **other: str | None) -> None:
        for name, value in (environment(port) | other).items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()

    yield set_environment
    s3fs.S3FileSystem.clear_instance_cache()


def test_files_come_and_go_on_s3_as_on_a_disk(server: int, use: Use, tmp_path: Path) -> None:
    use(server)
    for root in (place("s3://bucket/some"), place(str(tmp_path / "some"))):
        assert not exists(root)
        assert children(root) == []
        write_bytes(root / "deep/a b.bin", b"one")
        write_bytes(root / "deep/a b.bin", b"two")
        assert fetch(root / "deep/a b.bin") == b"two"
        assert [file.name for file in files_below(root)] == ["a b.bin"]
        assert place((root / "deep/a b.bin").url) == root / "deep/a b.bin"
        remove(root)
        remove(root)
        assert not exists(root / "deep/a b.bin")


class Azure(MemoryFileSystem):
    """Takes addresses apart as adlfs does: the account goes into the options."""

    protocol = ("abfs", "az", "abfss")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        container, _, rest = path.partition("://")[2].partition("/")
        return f"{container.partition('@')[0]}/{rest}" if "://" in path else path

    @staticmethod
    def _get_kwargs_from_urls(urlpath: str) -> dict[str, str]:
        account = re.search(r"@(\w+)\.(?:dfs|blob)\.core", urlpath)
        return {"account_name": account[1]} if account else {}

    def unstrip_protocol(self, name: str) -> str:
        return f"abfs://{name}"


@pytest.mark.parametrize(
    "url",
    [
        "abfs://container@account.dfs.core.windows.net/radiographs/a.png",
        "abfs://container/a.png",
        "webhdfs://127.0.0.1:9870/data/a.png",
        "http://127.0.0.1:9/data/a.png",
    ],
)
def test_the_address_of_a_place_keeps_its_host_and_account(url: str) -> None:
    """For it is written down, and opened by other processes."""
    fsspec.register_implementation("abfs", Azure, clobber=True)
    found = place(url)
    assert found.url == url
    assert place(found.url) == found
    assert (found.parent / "b.png").url == url.replace("a.png", "b.png")


def test_an_azure_address_in_its_other_forms_is_the_same_place() -> None:
    for scheme, host in (("abfss", "dfs"), ("az", "blob")):
        fsspec.register_implementation(scheme, Azure, clobber=True)
        found = place(f"{scheme}://container@account.{host}.core.windows.net/a.png")
        assert found.url == "abfs://container@account.dfs.core.windows.net/a.png"


def told(action: Callable[[], object]) -> str:
    with pytest.raises(StorageError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    return text


def everything(root: Place) -> list[Callable[[], object]]:
    return [
        lambda: exists(root / "a"),
        lambda: write_bytes(root / "a", b"x"),
        lambda: children(root),
        lambda: files_below(root),
    ]


@pytest.mark.parametrize("wrong", [{"AWS_SECRET_ACCESS_KEY": "guess"}, {"AWS_ACCESS_KEY_ID": "guess"}])
def test_wrong_credentials_are_one_clear_line(server: int, use: Use, wrong: dict[str, str]) -> None:
    use(server, **wrong)
    for action in everything(place("s3://bucket")):
        assert "the store refuses" in told(action)
    with pytest.raises(PermissionError):
        fetch(place("s3://bucket/a"))  # whose fault it is, is found out by asking for the folder


def test_missing_credentials_are_one_clear_line(server: int, use: Use, tmp_path: Path) -> None:
    none = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"), "AWS_CONFIG_FILE": str(tmp_path / "none")}
    use(server, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, **none)
    for action in everything(place("s3://bucket")):
        assert "no credentials" in (line := told(action))
        assert "FSSPEC_S3_ANON=true" in line


def test_a_missing_bucket_is_one_clear_line(server: int, use: Use) -> None:
    use(server)
    root = place("s3://buckett/data")
    assert "no such bucket" in told(lambda: write_bytes(root / "a", b"x"))
    assert "no such bucket" in told(lambda: fetch(root / "a"))


def test_a_server_that_is_not_there_is_one_clear_line(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(free_port())
    monkeypatch.setattr("chexworld_ray.storage._S3_OPTIONS", {"config_kwargs": {"retries": {"total_max_attempts": 1}}})
    for action in everything(place("s3://bucket")):
        assert "can't be reached" in told(action)


def test_a_file_with_a_limit_costs_one_request(server: int, use: Use) -> None:
    """One that is empty, or too large, two: a store refuses a part of nothing, and the size is told."""
    use(server)
    for name, size in (("none", 0), ("some", 999), ("most", 1000), ("more", 5000)):
        write_bytes(place(f"s3://bucket/sizes/{name}"), b"x" * size)
    asked: list[str] = []

    def decide(_number: int, method: str, path: str) -> Answer | None:
        asked.append(f"{method} {path.partition('?')[0]}")

    with proxy(server, decide) as before:
        use(before.port)
        for name, size in (("some", 999), ("most", 1000)):
            assert len(fetch(place(f"s3://bucket/sizes/{name}"), 1000)) == size
        assert asked == ["GET /bucket/sizes/some", "GET /bucket/sizes/most"]
        assert fetch(place("s3://bucket/sizes/none"), 1000) == b""
        with pytest.raises(UnfitFile, match="5000 bytes, at most 1000 are read"):
            fetch(place("s3://bucket/sizes/more"), 1000)
        with pytest.raises(FileNotFoundError):
            fetch(place("s3://bucket/sizes/other"), 1000)


def test_a_web_server_that_is_away_is_no_missing_file() -> None:
    """One that refuses may be a bucket that may not be listed, which has no other answer for a missing file."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/there": 200, "/secret": 403, "/broken": 500}.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever).start()
        root = place(f"http://127.0.0.1:{web.server_port}")
        try:
            assert exists(root / "there")
            assert not exists(root / "gone")
            assert not exists(root / "secret")
            assert "the store refuses (403" in told(lambda: fetch(root / "secret"))
            assert "500" in told(lambda: exists(root / "broken"))
        finally:
            web.shutdown()
    for address in (root.url, f"webhdfs://127.0.0.1:{web.server_port}"):
        assert "can't be reached" in told(lambda address=address: exists(place(address) / "there"))


def test_a_web_server_that_tells_no_size_fills_no_memory() -> None:
    """And one that tells it is asked once."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            left = 999 if self.path == "/small" else 1 << 30
            with suppress(OSError):  # the reader goes away
                while left > 0:
                    left -= self.wfile.write(b"x" * min(left, 65536))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever).start()
        try:
            root = place(f"http://127.0.0.1:{web.server_port}")
            assert len(fetch(root / "small", 1000)) == 999
            with pytest.raises(UnfitFile, match="at most 1000 are read"):
                fetch(root / "endless", 1000)
        finally:
            web.shutdown()
    assert asked == ["/small", "/endless"]


def test_throttling_and_server_errors_are_tried_again(server: int, use: Use) -> None:
    answers = [Answer(503, "SlowDown"), Answer(500, "InternalError"), Answer(0, ""), Answer(502, "BadGateway")]

    def decide(number: int, _method: str, _path: str) -> Answer | None:
        return None if number % 5 else answers[number // 5 % len(answers)]

    with proxy(server, decide) as before:
        use(before.port)
        root = place("s3://bucket/flaky")
        for number in range(6):
            write_bytes(root / f"{number}.bin", bytes([number]) * 1000)
        for number in range(6):
            assert fetch(root / f"{number}.bin") == bytes([number]) * 1000
        assert len(files_below(root)) == 6
    assert before.spoilt >= len(answers)


def test_a_store_that_keeps_failing_is_told(server: int, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chexworld_ray.storage._S3_OPTIONS", {"config_kwargs": {"retries": {"total_max_attempts": 2}}})
    with proxy(server, lambda *_: Answer(503, "SlowDown")) as before:
        use(before.port)
        assert "the store fails, after several attempts" in told(lambda: exists(place("s3://bucket/a")))


def test_a_secret_in_a_url_is_refused() -> None:
    with pytest.raises(UserError, match=r"s3://\*\*\*@bucket") as caught:
        place("s3://key:topsecret@bucket/a")
    assert "topsecret" not in str(caught.value)


def test_a_file_in_the_place_of_a_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert "can't be written" in told(lambda: write_bytes(place(str(tmp_path / "a" / "b")), b"x"))


def test_a_store_that_can_not_be_reached_is_told_where_a_part_of_a_file_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = place("memory://away/part.parquet")

    def away(*_: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(file.fs, "open", away)
    assert "part.parquet: the store can't be reached (no route)" in told(lambda: opened(file))


def test_empty_objects_that_stand_for_folders_are_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As consoles, MinIO and Hadoop make them; fsspec's own in-memory store can hold none."""
    root = place("memory://marked/in")
    sizes = {"/": 0, "/sub/": 0, "/empty/": 0, "/old_$folder$": 0, "/a.png": 9, "/sub/none.png": 0, "/odd/": 3}
    objects = {root.path + name: {"size": size, "type": "file"} for name, size in sizes.items()}
    monkeypatch.setattr(root.fs, "find", lambda *_, **__: objects)
    monkeypatch.setattr(root.fs, "ls", lambda *_, **__: [*objects])
    found = [file.path.removeprefix(root.path) for file in files_below(root)]
    assert found == ["/a.png", "/odd/", "/sub/none.png"], (
        "an empty file is one, and so is a marker that holds something"
    )
    assert root not in children(root)


def test_a_folder_that_may_not_be_listed_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place(str(tmp_path))

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(folder.fs, "ls", refused)
    assert told(lambda: children(folder)) == f"{tmp_path}: can't be listed: Permission denied"
