"""Damaged and hostile files of others, given to the command line: one line and exit code 2, and nothing is written."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pages import looked_into

from chexworld_ray import storage
from chexworld_ray.analysis.outcome import FOLDER
from chexworld_ray.cli import main
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results_file import NAME as RESULTS
from chexworld_ray.reports import html
from chexworld_ray.shards.manifest import REJECTED, Manifest, load
from chexworld_ray.storage import place, write_json
from chexworld_ray.training.checkpoint_files import FILES, MANIFEST, damage
from chexworld_ray.training.log import METRICS
from chexworld_ray.training.run import CONFIG, local_copy

ODD: list[Any] = [None, True, -1, 0, 2**70, 10**400, 1e308, float("nan"), float("inf"), "", "../..", "/etc/passwd"]
ODD += [
    "s3://bucket/x",
    "reference://::file:///x",
    "a\0b",
    "\ud800",
    "x" * 300,
    [],
    [[]],
    {},
    {"a": []},
    [None],
    ["a", 1],
]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def told(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says where it refuses, after a look at how; nothing where it went well."""
    before = tree(folder)
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    if code == 0:
        return ""
    assert code == 2
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("chexworld: ")
    assert tree(folder) == before
    if out == "":
        assert len(err.splitlines()) == 1
    return err.splitlines()[-1]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    pairs: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(deeper for key, inner in pairs for deeper in places(inner, (*at, key)))]


def changed(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if new is ...:
        del copy[at[0]]
    else:
        copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


@st.composite
def spoilt_json(draw: Callable[..., Any], value: Any) -> bytes:
    at = draw(st.sampled_from(places(value)))
    new = draw(st.sampled_from(ODD))
    return json.dumps(changed(value, at, new)).encode("utf-8", "surrogatepass")


@st.composite
def spoilt_bytes(draw: Callable[..., Any], data: bytes) -> bytes:
    found = bytearray(data)
    for at, change in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(1, 255)), max_size=4)):
        found[at] ^= change
    return bytes(found[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(found)


def spoilt(data: bytes, drawn: st.DataObject) -> bytes:
    kind = drawn.draw(st.sampled_from(["bytes", "json"]))
    try:
        value = json.loads(data)
    except ValueError:
        kind = "bytes"
    else:
        if kind == "json":
            return drawn.draw(spoilt_json(value))
    return drawn.draw(spoilt_bytes(data))


NESTED = b'{"schema_version": 2, "a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW = settings(MANY, max_examples=25)


@pytest.fixture(scope="module")
def data(phantom_set: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(phantom_set.root.path, tmp_path_factory.mktemp("strange") / "data"))


@MANY
@given(st.data())
def test_a_damaged_manifest_is_one_line(data: Path, capsys: pytest.CaptureFixture[str], drawn: st.DataObject) -> None:
    file = data / "manifest.json"
    whole = file.read_bytes()
    try:
        file.write_bytes(spoilt(whole, drawn))
        told(["inspect", str(data)], data, capsys)
    finally:
        file.write_bytes(whole)


@FEW
@given(st.data())
def test_a_damaged_shard_or_list_of_rejects_is_a_problem(
    data: Path, capsys: pytest.CaptureFixture[str], drawn: st.DataObject
) -> None:
    """With a manifest that says its hash: who made the one made the other."""
    manifest = data / "manifest.json"
    name = drawn.draw(st.sampled_from([json.loads(manifest.read_text())["files"][0]["path"], REJECTED]))
    whole, before = (data / name).read_bytes() if (data / name).exists() else None, manifest.read_bytes()
    strange = spoilt(whole or b"PAR1", drawn)
    record = json.loads(before)
    record["files"][0] |= (
        {"bytes": len(strange), "sha256": hashlib.sha256(strange).hexdigest()} if name != REJECTED else {}
    )
    try:
        (data / name).write_bytes(strange)
        manifest.write_text(json.dumps(record))
        told(["inspect", str(data), "--check"], data, capsys)
    finally:
        manifest.write_bytes(before)
        (data / name).unlink() if whole is None else (data / name).write_bytes(whole)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What views and masks look like is asked elsewhere, and takes a second a page."""
    for name in ("views_picture", "masks_picture"):
        monkeypatch.setattr(html, name, lambda *_: b"")


@pytest.fixture(scope="module")
def run(phantom_set: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a curve, results and an analysis."""
    folder = tmp_path_factory.mktemp("strange") / "first"
    looked_into(folder, phantom_set)
    return folder


@pytest.mark.usefixtures("no_pictures")
@settings(MANY, max_examples=10)  # a report takes a second
@given(st.data(), st.sampled_from([CONFIG, METRICS, RESULTS, f"{FOLDER}/layout.json"]))
def test_a_damaged_record_of_a_run_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], drawn: st.DataObject, name: str
) -> None:
    page = run.parent / "page.html"
    page.unlink(missing_ok=True)
    file = run / name
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True) if name == METRICS else [whole]
    try:
        file.write_bytes(b"".join([spoilt(lines[0], drawn), *lines[1:]]))
        said = told(["report", "--run", str(run), "--out", str(page)], run.parent, capsys)
        assert page.exists() == (said == "")
    finally:
        file.write_bytes(whole)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", [CONFIG, METRICS, f"{FOLDER}/layout.json"])
def test_json_that_is_nested_too_deeply_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "first"))
    (copy / name).write_bytes(NESTED)
    assert name in told(["report", "--run", str(copy)], tmp_path, capsys)


def hostile(data: Path, folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    copy = Path(shutil.copytree(data, folder / "copy"))
    record = json.loads((copy / "manifest.json").read_text())
    edit(record)
    (copy / "manifest.json").write_text(json.dumps(record))
    return copy


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a step up": lambda record: record["files"][0].update(path="../outside.parquet"),
    "an absolute path": lambda record: record["files"][0].update(path="/etc/passwd"),
    "a folder": lambda record: record["files"][0].update(path="deep/a.parquet"),
    "a URL": lambda record: record["files"][0].update(path="http://127.0.0.1:9/a.parquet"),
    "a version that leads up": lambda record: record.update(data_version="../.."),
    "a version that is no number": lambda record: record.update(data_version="elsewhere"),
    "rows without number": lambda record: record["files"][0].update(rows=10**12, row_groups=[10**12]),
    "a sum of pixels that is none": lambda record: record.update(pixel_sums=[1.0, float("nan"), 1e308]),
}


@pytest.mark.parametrize("kind", MANIFESTS)
@pytest.mark.parametrize("check", [[], ["--check"]])
def test_a_manifest_that_leads_elsewhere_is_not_read(
    kind: str, check: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = hostile(data, tmp_path, MANIFESTS[kind])
    shutil.copy(next(data.glob("train-*.parquet")), tmp_path / "outside.parquet")
    assert "manifest.json: " in told(["inspect", str(copy), *check], tmp_path, capsys)
    with pytest.raises(UserError):
        load(str(copy))


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_names_a_foreign_store_has_nothing_asked_of_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says where the data would be, and how to allow it."""
    copy = Path(shutil.copytree(run, tmp_path / "first"))
    record = json.loads((copy / CONFIG).read_text())
    for url in ("s3://bucket/data", "http://127.0.0.1:9/data", "memory://data"):
        record["data"][0]["url"] = url
        (copy / CONFIG).write_text(json.dumps(record))
        opened: list[str] = []
        whole = storage.fsspec.core.url_to_fs

        def watched(url: str, opened: list[str] = opened, whole: Any = whole, **options: Any) -> Any:
            opened.append(url)
            return whole(url, **options)

        with monkeypatch.context() as patch:
            patch.setattr(storage.fsspec.core, "url_to_fs", watched)
            assert main(["report", "--run", str(copy)]) == 0
        assert not [one for one in opened if one.startswith(url[:4])]
        assert f"{url} leads out of" in (copy / "report.html").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(storage.fsspec.core, "url_to_fs", watched)
        assert main(["report", "--run", str(copy), "--allow-prefix", "memory://data"]) == 0
    assert url in opened


def test_a_run_on_this_machine_finds_its_data_on_this_machine(run: Path, tmp_path: Path) -> None:
    assert main(["report", "--run", str(run), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "leads out of" not in page
    assert "phantoms" in page


@pytest.mark.parametrize("version", ["../..", "/tmp", "x"])
def test_a_run_that_names_no_version_is_one_line(
    version: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "first"))
    record = json.loads((copy / CONFIG).read_text())
    record["data"][0]["version"] = version
    (copy / CONFIG).write_text(json.dumps(record))
    assert "no version of a data set" in told(["report", "--run", str(copy)], tmp_path, capsys)


def test_a_checkpoint_is_only_its_own_files(tmp_path: Path) -> None:
    from chexworld_ray.training.run import StoredCheckpoint

    folder = tmp_path / "checkpoint_000000000010"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (folder / "more").write_bytes(b"x")
    (folder / "deeper").mkdir()
    digest = hashlib.sha256(b"x").hexdigest()
    (folder / FILES[0]).write_bytes(b"x")
    for name in ("../secret", str(tmp_path / "secret"), "more"):
        write_json(place(str(folder)) / MANIFEST, {"files": {name: {"bytes": 1, "sha256": digest}}})
        assert "no file of a checkpoint" in str(damage(folder))
    write_json(place(str(folder)) / MANIFEST, {"files": {FILES[0]: {"bytes": 1, "sha256": digest}}})
    with local_copy(StoredCheckpoint(place(str(folder)), 10)) as (copy, reason):
        assert reason is None
        assert sorted(file.name for file in copy.iterdir()) == [MANIFEST, FILES[0]]


def test_init_from_a_folder_that_is_no_run_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "pretrain",
        "--data",
        str(data),
        "--storage",
        str(tmp_path / "runs"),
        "--name",
        "a",
        "--init",
        str(tmp_path),
    ]
    assert f"--init {tmp_path} (no run or checkpoint): a folder" in told(words, tmp_path, capsys)
