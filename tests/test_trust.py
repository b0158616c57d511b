"""What a file may name: plain names, and addresses below its folder or below what the user named."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from chexworld_ray.cli import main
from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import write_phantoms
from chexworld_ray.shards.decode import Rejected
from chexworld_ray.shards.identity import Pseudonyms
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import SourceRow
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.shards.writer import _read, write_chunk
from chexworld_ray.storage import Place, fetch, place
from chexworld_ray.trust import allowed_prefixes, data_version, plain_name, recorded, resolve

ROOT = place("/data/set")
OUTSIDE = [
    "../other/a.png",
    "a/../../b.png",
    "/etc/passwd",
    "/data/settle/a.png",
    "/data/set/../other",
    "file:///etc/passwd",
    "local:///etc/passwd",
    "http://127.0.0.1/latest/meta-data",
    "HTTP://127.0.0.1/x",
    "s3://bucket/a.png",
    "memory://x.png",
    "data://x",
    "reference://::file:///data/set/evil.json",
    "zip://x::/data/set/a.zip",
    "simplecache::http://127.0.0.1/x",
    "foo://x",
]


@pytest.mark.parametrize("address", OUTSIDE)
def test_an_address_in_a_file_does_not_lead_out_of_its_folder(address: str) -> None:
    with pytest.raises(UserError, match="--allow-prefix"):
        resolve(ROOT, address)


def test_paths_below_the_folder_are_found_however_they_are_written() -> None:
    for address in ("a/b.png", "/data/set/a/b.png", "file:///data/set/a/b.png", "x/../a/b.png"):
        assert resolve(ROOT, address).path == "/data/set/a/b.png"
    assert resolve(ROOT, "a::b.png").path == "/data/set/a::b.png", "a name, not a chain"
    assert resolve(place("memory://set"), "memory:///set/a.png").path == "/set/a.png"


def test_what_the_user_allows_is_opened_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    allowed = allowed_prefixes(("more", "/archive/", "memory://bucket/in"))
    assert resolve(ROOT, str(tmp_path / "more" / "a.png"), allowed).path == str(tmp_path / "more" / "a.png")
    assert resolve(ROOT, "../../archive/a.png", allowed).path == "/archive/a.png"
    assert resolve(ROOT, "memory://bucket/in/a.png", allowed).path == "/bucket/in/a.png"
    for address in (
        "/archives/a.png",
        "/archive/../etc/passwd",
        str(tmp_path / "more.png"),
        "memory://bucket/inner",
        "memory://bucket/in/../out",
        "memory://bucket/in/%2e%2e/out",
        "memory://bucket/in\\..\\out",
        "memory://bucket/in/a::memory://out",
    ):
        with pytest.raises(UserError, match="--allow-prefix"):
            resolve(ROOT, address, allowed)
    assert resolve(ROOT, "memory://any/a.png", allowed_prefixes(("memory://",))).path == "/any/a.png"


def test_a_record_leads_into_its_own_store_only() -> None:
    here, there = place("/runs/first"), place("memory://bucket/runs/first")
    assert recorded(here, "/data/manifest-00001.json").path == "/data/manifest-00001.json"
    for home, address in ((here, "memory://bucket/data"), (here, "s3://bucket/data"), (there, "/data")):
        with pytest.raises(UserError, match="--allow-prefix"):
            recorded(home, address)
    assert recorded(here, "memory://bucket/data", ("memory://bucket",)).path == "/bucket/data"


def test_a_refusal_shows_no_password() -> None:
    with pytest.raises(UserError) as caught:
        resolve(ROOT, "http://user:geh/eim@x@host/a.png?sig=abc")
    assert "eim" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("url", ["reference://::/a.json", "zip://x::/a.zip", "simplecache::s3://bucket/a"])
def test_a_chain_of_addresses_is_refused_even_where_it_is_typed(url: str) -> None:
    with pytest.raises(UserError, match="::"):
        place(url)


@pytest.mark.parametrize("url", ["zip://a", "ftp://127.0.0.1:9/a", "hdfs://127.0.0.1:9/a", "foo://a", "git://a"])
def test_a_protocol_that_nothing_opens_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", url]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("chexworld: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../a", "/a", "a/b", ".hidden", "a\0", "a\n", "x" * 201, "a*", 7, None]
)
def test_names_that_lead_elsewhere_are_no_plain_names(name: object) -> None:
    with pytest.raises(UserError, match=r"here\.json"):
        plain_name(name, "here.json")


def test_versions_are_hexadecimal() -> None:
    assert data_version("0123456789abcdef", "x") == "0123456789abcdef"
    for version in ("../..", "0123456789abcdeg", "0123", "", None, "0123456789abcdef\n"):
        with pytest.raises(UserError):
            data_version(version, "x")


@contextmanager
def redirecting(to: str) -> Iterator[str]:
    """A web server that sends everybody on to `to`."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", to)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_that_a_table_names_can_not_send_its_reader_elsewhere() -> None:
    asked: list[str] = []

    class Inner(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Inner) as inner:
        thread = Thread(target=inner.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        with redirecting(f"http://127.0.0.1:{inner.server_port}/keys") as outer:
            assert fetch(resolve(ROOT, f"{outer}/a.png", (outer,))) == b""
            assert asked == []
            fetch(place(f"{outer}/a.png"))
            assert asked == ["/keys"], "one that the user typed may"
        inner.shutdown()
        thread.join()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_phantoms(place(str(tmp_path / "in")), 4, 0, 96)
    return tmp_path / "in"


def table_of(images: Path, *lines: str) -> Path:
    (images / "mine.csv").write_text("\n".join(["path,mask", *lines, ""]))
    return images


@pytest.mark.parametrize("line", ["/etc/passwd,", "http://127.0.0.1:9/a.png,", "images/000000.png,/etc/passwd"])
def test_a_table_that_leads_elsewhere_stops_before_anything_is_written(
    line: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table_of(images, "images/000001.png,", line)
    assert main(["ingest", str(images), "--labels", "mine.csv", "--out", str(tmp_path / "out")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "mine.csv: row 2: " in said
    assert "--allow-prefix" in said
    assert not (tmp_path / "out").exists()


def test_such_rows_can_be_set_aside_or_allowed(images: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_phantoms(place(str(other)), 2, 5, 96)
    table_of(images, "images/000000.png,", f"{other}/images/000000.png,", "../other/images/000001.png,")
    aside = read_source(str(images), labels="mine.csv", skip_missing=True)
    assert [(reject.reason, len(aside.packed)) for reject in aside.set_aside] == [("outside the folder", 1)] * 2
    source = read_source(str(images), labels="mine.csv", allowed=(str(other),))
    assert source.allowed == (str(other),)
    rows = list(source)
    root, out = place(source.root), place(str(tmp_path / "out"))
    record = write_chunk("01-00000", rows, root, source.columns, WriteSettings(), KEY, out, source.allowed)
    assert record.images.num_rows == 3
    assert record.rejected == []
    record = write_chunk("01-00000", rows, root, source.columns, WriteSettings(), KEY, out)
    assert [reject.reason for reject in record.rejected] == ["outside the folder"] * 2, "the writer looks for itself"


KEY = Pseudonyms(b"a key for tests")


def test_drafts_in_a_folder_of_images_are_counted_and_not_read(images: Path) -> None:
    draft = images / "images" / f"000000.png.{'0a' * 16}.draft"
    draft.write_bytes((images / "images" / "000000.png").read_bytes())
    source = read_source(str(images))
    assert source.ignored["draft"] == 1
    assert all("draft" not in row.path for row in source)


def test_what_is_read_is_a_reject_where_it_leads_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="outside the folder"):
        _read(Place(ROOT.fs, str(tmp_path)), SourceRow(image_id="a", path="/etc/passwd", dataset="d").path, (), 10)
