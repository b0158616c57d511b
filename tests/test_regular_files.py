"""What is no file is refused before it is opened, by each way into the program; links to files are files."""

import gzip
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from chexworld_ray import regular_files
from chexworld_ray.analysis.outcome import Outcome, read_outcomes
from chexworld_ray.errors import UserError
from chexworld_ray.models.backbone import timm_bytes
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.regular_files import UnfitFile, read_regular
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards import writer
from chexworld_ray.shards.identity import Pseudonyms
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.sources import tables
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.shards.writer import write_chunk
from chexworld_ray.storage import Place, fetch, opened, place, read_json
from chexworld_ray.training.log import METRICS, read_metrics
from chexworld_ray.training.run import CONFIG, load

KINDS = ("pipe", "socket", "device", "link to a pipe", "link to a device", "sparse")


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """One of each kind. Opening a pipe would wait for ever; the guard of pytest would tell."""
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    paths = {kind: tmp_path / f"{kind}.png" for kind in KINDS}
    os.mkfifo(paths["pipe"])
    paths["device"].symlink_to("/dev/zero")
    paths["link to a pipe"].symlink_to(paths["pipe"])
    paths["link to a device"].symlink_to(paths["device"])
    with paths["sparse"].open("wb") as file:
        file.truncate(40 << 30)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        yield paths


@pytest.mark.parametrize("kind", KINDS)
def test_no_way_in_opens_what_is_no_file(odd: dict[str, Path], kind: str) -> None:
    file = str(odd[kind])
    told = {
        "pipe": r"not a regular file: a pipe \(FIFO\)",
        "socket": "not a regular file: a socket",
        "device": "not a regular file: a device",
        "link to a pipe": "not a regular file: a pipe",
        "link to a device": "not a regular file: a device",
        "sparse": "too large: 42949672960 bytes, at most",
    }[kind]
    for way in (lambda: fetch(place(file)), lambda: read_json(place(file)), lambda: tables.read_table(place(file))):
        with pytest.raises(UserError, match=told):
            way()
    with pytest.raises(UserError, match=told):
        timm_bytes(f"timm:vit_tiny_patch16_224@{file}")
    if kind != "sparse":  # of which only parts are read
        with pytest.raises(UnfitFile, match=told), opened(place(file)):
            pass


def test_an_ingest_sets_them_aside_by_kind_and_goes_on(odd: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "elsewhere" / ".a.bin"  # hidden, so that only the link to it counts
    picture.parent.mkdir()
    Image.fromarray(make_phantom(0, 0, 96).image_HW).save(picture, "PNG")
    (tmp_path / "good.png").symlink_to(picture)
    names = [path.name for path in odd.values()]
    (tmp_path / "t.csv").write_text("path,mask\n" + "".join(f"{name},\n" for name in names) + "good.png,pipe.png\n")
    source = read_source(str(tmp_path), labels="t.csv")
    out = place(str(tmp_path / "out"))
    key = Pseudonyms(b"of a test")
    root = place(source.root)
    record = write_chunk("01-00000", list(source), root, source.columns, WriteSettings(), key, out)
    reasons = {reject.source_path: f"{reject.reason}: {reject.detail}" for reject in record.rejected}
    assert reasons.keys() == set(names)
    assert reasons["link to a pipe.png"] == "not a regular file: a pipe (FIFO)"
    assert reasons["sparse.png"] == "too large: 42949672960 bytes, at most 267108864 are read"
    assert record.images["source_path"].to_pylist() == ["good.png"]
    assert record.files[0].flags["bad_mask_lung"] == 1


def test_a_file_that_no_memory_is_left_for_is_a_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> bytes:
        raise MemoryError

    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setattr(writer, "fetch", no_memory)
    source, out = read_source(str(tmp_path)), place(str(tmp_path / "out"))
    root, key = place(source.root), Pseudonyms(b"of a test")
    record = write_chunk("01-00000", list(source), root, source.columns, WriteSettings(), key, out)
    assert [(one.reason, one.detail) for one in record.rejected] == [("too large", "no memory to read it")]


def test_a_file_that_is_exchanged_for_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"x")
    check = regular_files.check_regular

    def exchanging(path: str, limit: int) -> None:
        check(path, limit)
        file.unlink()
        os.mkfifo(file)

    monkeypatch.setattr(regular_files, "check_regular", exchanging)
    with pytest.raises(UnfitFile, match="a pipe"):
        read_regular(str(file))


def test_a_limit_is_that_of_the_bytes_that_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(range(100)))
    assert read_regular(str(file), 100) == bytes(range(100))
    with pytest.raises(UnfitFile, match="too large: 100 bytes, at most 99 are read"):
        read_regular(str(file), 99)
    stored = place("memory://limit/a.bin")
    stored.fs.pipe_file(stored.path, bytes(100))
    assert fetch(stored, 100) == bytes(100)
    with pytest.raises(UnfitFile, match="too large"):
        fetch(stored, 99)
    with pytest.raises(IsADirectoryError):
        read_regular(str(tmp_path))


def test_a_table_inflates_no_further_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.csv.gz"
    file.write_bytes(gzip.compress(b"path\n") + gzip.compress(b"a.png\n"))
    assert tables.read_table(place(str(file)))["path"].to_pylist() == ["a.png"], "parts are one file, as gzip says"
    whole = gzip.compress(b"path\n" + b"a.png\n" * 300_000)
    file.write_bytes(whole)
    monkeypatch.setattr(tables, "LARGEST", 1 << 20)
    with pytest.raises(UserError, match=r"t\.csv\.gz: inflates to more than 1 MiB; split the table"):
        tables.read_table(place(str(file)))
    monkeypatch.undo()
    file.write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"t\.csv\.gz: can't be read as a CSV table"):
        tables.read_table(place(str(file)))


def test_a_manifest_that_is_a_pipe_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(UserError, match=r"manifest\.json: not a regular file: a pipe"):
        manifests.load(str(tmp_path))


@pytest.mark.parametrize("name", [CONFIG, METRICS, "analyses/retrieval.png"])
def test_a_huge_file_in_a_strangers_run_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    """Sparse files take no room on a disk, and all of it in memory."""
    (tmp_path / "analyses").mkdir()
    outcome = Outcome("retrieval", "", [], [], "").record()
    for file in (CONFIG, METRICS, "analyses/retrieval.json", "analyses/retrieval.png"):
        (tmp_path / file).write_text(json.dumps(outcome))
    os.truncate(tmp_path / name, 2 << 30)
    reading: Callable[[Place], object] = {CONFIG: load, METRICS: read_metrics}.get(name, read_outcomes)
    with pytest.raises(UnfitFile, match=f"{name}: too large"):
        reading(place(str(tmp_path)))
