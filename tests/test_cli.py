"""What a user sees: one clear line and exit code 2 for a mistake, one JSON object where it was asked for."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chexworld_ray import __version__
from chexworld_ray.cli import main, parse
from chexworld_ray.errors import UserError
from chexworld_ray.shards.manifest import Manifest

RUN = ["--data", "DATA", "--storage", "STORAGE", "--name", "n"]


def mistakes(tmp_path: Path, manifest: Manifest) -> dict[str, tuple[list[str], str]]:
    """What may go wrong → (arguments, words that the line holds)."""
    empty = tmp_path / "empty"
    empty.mkdir()
    table = tmp_path / "with-table"
    table.mkdir()
    (table / "labels.csv").write_text("path,label\ngone.png,1\n")
    broken = tmp_path / "broken"
    shutil.copytree(manifest.root.path, broken)
    (broken / "manifest.json").write_text((broken / "manifest.json").read_text()[:-40])
    older = tmp_path / "older"
    shutil.copytree(manifest.root.path, older)
    record = json.loads((older / "manifest.json").read_text())
    (older / "manifest.json").write_text(json.dumps(record | {"schema_version": 0}))
    nothing = str(tmp_path / "nothing")
    out = ["--out", str(tmp_path / "out")]
    data = ["--data", manifest.root.path, "--storage", str(tmp_path)]
    return {
        "no such data set": (["inspect", nothing], "nothing is there"),
        "a table of the user's": (["phantoms", "--out", str(table), "--images", "1"], "there is a labels.csv already"),
        "patches": (["pretrain", *RUN, "--model.image-size", "50"], "--model.image-size 50 is no multiple of"),
        "no manifest": (["inspect", str(empty)], "chexworld ingest"),
        "no such folder": (["ingest", nothing, *out], "no such folder"),
        "empty folder": (["ingest", str(empty), *out], "no images"),
        "missing files": (["ingest", str(table), "--labels", "labels.csv", *out], "row 1"),
        "no such table": (["ingest", str(table), "--labels", "other.csv", *out], "other.csv"),
        "corrupted manifest": (["inspect", str(broken)], "not valid JSON"),
        "old manifest": (["inspect", str(older)], "schema version 0"),
        "unknown setting": (["pretrain", *data, "--name", "n", "--modle.width", "3"], "--modle.width"),
        "bad value": (["pretrain", *data, "--name", "n", "--seed", "x"], "--seed"),
        "impossible value": (["pretrain", *data, "--name", "n", "--model.heads", "5"], "heads"),
        "unknown recipe": (["pretrain", *data, "--name", "n", "--recipe", "huge"], "small"),
        "bad name": (["pretrain", *data, "--name", "a/b"], "--name"),
        "no data": (["pretrain", "--data", nothing, "--storage", nothing, "--name", "n"], "nothing is there"),
        "missing argument": (["pretrain", *data], "--name"),
        "no such run": (["evaluate", "--run", nothing, "--data", manifest.root.path], "no run there"),
        "unknown protocol": (["evaluate", "--run", nothing, "--data", nothing, "--protocol", "svm"], "svm"),
        "no run to report": (["report", "--run", nothing], "no run there"),
        "unknown command": (["pretrian"], "pretrian"),
        "unknown store": (["inspect", "nosuch://bucket/x"], "nosuch"),
        "no bucket": (["ingest", "s3://", *out], "names no bucket"),
        "no bucket but a path": (["ingest", "s3:///data", *out], "names no bucket"),
        "no host": (["inspect", "https://"], "names no bucket, host"),
        "a variable that is not set": (["ingest", "", *out], "address is empty"),
        "a dead server": (["ingest", "http://127.0.0.1:9/data", *out], "can't be reached"),
        "a dead server of files": (["ingest", "ftp://127.0.0.1:9/data", *out], "can't be opened"),
        "secret in a URL": (["inspect", "s3://key:secret@bucket/x"], "environment"),
    }


def test_mistakes_are_one_line_and_exit_code_2(
    tmp_path: Path, phantom_set: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (arguments, words) in mistakes(tmp_path, phantom_set).items():
        code = main(arguments)
        said = capsys.readouterr()
        assert code == 2, name
        assert said.out == "", name
        assert words in said.err, f"{name}: {said.err}"
        assert said.err.count("\n") == 1, f"{name}: {said.err}"
        assert "secret" not in said.err, name
        assert "Traceback" not in said.err, name


def test_inspect_prints_counts_and_one_json_object(
    phantom_set: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", phantom_set.root.path]) == 0
    assert "96 images" in capsys.readouterr().out
    picture = tmp_path / "views.png"
    assert main(["inspect", phantom_set.root.path, "--json", "--views", str(picture), "--recipe", "demo"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out)["images"] == 96
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_of_few_letters_gets_other_marks_in_their_place(
    phantom_set: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """Of a summary, and of a mistake."""
    folder = tmp_path / "胸部🙂"
    shutil.copytree(phantom_set.root.path, folder)
    written = {}
    for name in ("stdout", "stderr"):
        written[name] = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written[name], encoding, write_through=True))
    assert main(["inspect", str(folder)]) == 0
    assert b"/???: 96 images" in written["stdout"].getvalue()
    assert main(["inspect", str(folder / "无")]) == 2
    assert b"???/?: no such data set" in written["stderr"].getvalue()


def test_every_setting_can_be_reached_and_starts_from_the_recipe() -> None:
    command = parse(["pretrain", *RUN, "--recipe", "demo", "--model.width", "48", "--workers", "2", "--seed", "4"])
    assert (command.science.model.width, command.science.seed, command.runtime.workers) == (48, 4, "2")
    assert command.science.model.image_size == parse(["pretrain", *RUN, "--recipe=demo"]).science.model.image_size == 96
    assert parse(["pretrain", *RUN]).science.model.image_size == 128
    with pytest.raises(UserError):
        parse(["pretrain", *RUN, "--model.width", "50"])


def test_module_and_command_are_the_same() -> None:
    for command in ([sys.executable, "-m", "chexworld_ray"], [str(Path(sys.executable).parent / "chexworld")]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == __version__
