"""The newest checkpoint is torn: a start uses the one before, with a line, and the run ends the same."""

import dataclasses
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from finished import copy_of
from safetensors.torch import load_file
from states import CPU, equal, trained, values
from straight import same_weights

from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.runtime import worker
from chexworld_ray.runtime.job import Job
from chexworld_ray.runtime.pretrain import DRIVER, RAY_LIST, _listed, _remove_orphans, pretrain
from chexworld_ray.shards.lock import PRETRAIN, locked
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import place, write_bytes, write_json
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.checkpoint_files import ENCODER, MANIFEST, PREDICTOR, TARGET, damage, folder_name
from chexworld_ray.training.state import TrainState, start_state


def test_folders_that_ray_forgot_are_removed_once_older_than_all_that_it_keeps(tmp_path: Path) -> None:
    root = place(str(tmp_path))
    for name in ("checkpoint_000000000100", "checkpoint_000000000200", "checkpoint_000000000200.abc"):
        write_bytes(root / name / "state.json", b"{}")
    for name in ("checkpoint_000000000300", "checkpoint_000000000400", "metrics"):
        write_bytes(root / name / "state.json", b"{}")
    listed = [{"checkpoint_dir_name": name} for name in ("checkpoint_000000000200", "checkpoint_000000000300")]
    _remove_orphans(root, _listed(root))
    assert len(list(tmp_path.iterdir())) == 6, "without a list nothing is known"
    write_json(root / RAY_LIST, {"checkpoint_results": listed})
    _remove_orphans(root, _listed(root))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoint_000000000200", "checkpoint_000000000200.abc", "checkpoint_000000000300"),
        *("checkpoint_000000000400", "metrics", RAY_LIST),
    }


def flip(folder: Path) -> str:
    file = folder / "encoder.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return "encoder.safetensors differs"


def missing(folder: Path) -> str:
    (folder / "predictor.safetensors").unlink()
    return "predictor.safetensors is missing"


def cut(folder: Path) -> str:
    file = folder / "optimizer.pt"
    data = file.read_bytes()
    file.write_bytes(data[:1000])
    return f"optimizer.pt has 1000 bytes, {len(data)} were written"


def orphan(folder: Path) -> str:
    """A worker was lost while it wrote the newest folder, before its manifest."""
    (folder / MANIFEST).unlink()
    return "no readable MANIFEST.json"


def manifest_cut(folder: Path) -> str:
    data = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(data[: len(data) // 2])
    return "no readable MANIFEST.json"


def manifest_flipped(folder: Path) -> str:
    """It is JSON as before, with a word that nobody knows."""
    data = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(data.replace('"sha256"', '"rha256"', 1))
    return "no readable MANIFEST.json"


def no_json(folder: Path) -> str:
    (folder / "state.json").write_text("{" + " " * (len((folder / "state.json").read_text()) - 1))
    return "state.json differs from what was written"


TEARS = [flip, missing, cut, orphan, manifest_cut, manifest_flipped, no_json]


def write(job: Job, url: str, position: int, attempt: str = "", plan: str | None = None) -> TrainState:
    """A checkpoint of the run at `url`; the state that it is of."""
    state = trained(job.settings.science, job.total, position)
    facts = {"plan": plan or job.plan.digest, "attempt": attempt}
    copy = checkpoint.snapshot(state, job.settings.science.model, job.pixels, facts)
    checkpoint.write(copy, place(url) / folder_name(position))
    return state


def fresh(job: Job) -> TrainState:
    return start_state(job.settings.science, job.total, CPU)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What the first rank has told the others."""
    words: list[str | None] = []

    def broadcast(word: str | None) -> str | None:
        words.append(word)
        return word

    monkeypatch.setattr(worker, "broadcast_from_rank_zero", broadcast)
    return words


@pytest.mark.parametrize("tear", TEARS)
def test_a_start_walks_back_to_the_newest_that_is_whole(
    job: Job, lines: list[str], said: list[str | None], monkeypatch: pytest.MonkeyPatch, tear: Callable[[Path], str]
) -> None:
    states = {position: write(job, job.run_url, position, f"start-{position}") for position in (60, 120, 180)}
    urls = {position: f"{job.run_url}/{folder_name(position)}" for position in states}
    why = tear(Path(urls[180]))
    names = {folder_name(position) for position in states}
    state = fresh(job)
    assert worker._restore(job, state, 0, 2) == worker.Start(names, "start-120")
    passed, going_on = lines
    assert passed.startswith(f"{urls[180]} is passed over: {why}")
    assert going_on == f"going on from 120 images seen with 2 workers ({urls[120]})"
    assert equal(values(state), values(states[120]))

    words, other = iter(said), fresh(job)
    monkeypatch.setattr(worker, "broadcast_from_rank_zero", lambda _: next(words))
    assert worker._restore(job, other, 1, 2) == worker.Start(set(), "start-120")
    assert equal(values(other), values(states[120])), "all ranks do as the first says"
    assert len(lines) == 2, "and one says it"


def test_a_list_of_files_with_any_bit_flipped_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(b"{}")
    entry = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    write_json(place(str(tmp_path)) / MANIFEST, {"files": {"state.json": entry}})
    assert damage(tmp_path) is None
    data = (tmp_path / MANIFEST).read_bytes()
    for at in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        (tmp_path / MANIFEST).write_bytes(flipped)
        assert damage(tmp_path) is not None, bytes(flipped)


def test_where_none_is_whole_training_starts_anew(job: Job, lines: list[str], said: list[str | None]) -> None:
    for position in (60, 120):
        write(job, job.run_url, position)
        orphan(Path(job.run_url) / folder_name(position))
    state, start = fresh(job), values(fresh(job))
    assert worker._restore(job, state, 0, 1) == worker.Start({folder_name(60), folder_name(120)}, "")
    assert equal(values(state), start)
    assert ["passed over" in line for line in lines] == [True, True]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_that_was_named_to_go_on_from_must_have_a_whole_one(
    job: Job, said: list[str | None], tmp_path: Path, rank: int
) -> None:
    """Each rank ends so, and none waits for another."""
    job = dataclasses.replace(job, resume_from=str(tmp_path / "other"))
    write(job, f"{tmp_path}/other", 60)
    orphan(tmp_path / "other" / folder_name(60))
    with pytest.raises(UserError, match=re.escape(f"--resume-from {tmp_path}/other: no whole")):
        worker._restore(job, fresh(job), rank, 2)


def test_a_run_that_was_named_is_gone_on_from_where_the_own_has_no_whole_one(
    job: Job, lines: list[str], said: list[str | None], tmp_path: Path
) -> None:
    job = dataclasses.replace(job, resume_from=str(tmp_path / "other"))
    theirs = [write(job, f"{tmp_path}/other", position, "theirs") for position in (120, 180)]
    write(job, job.run_url, 60)
    missing(Path(job.run_url) / folder_name(60))
    state = fresh(job)
    assert worker._restore(job, state, 0, 1) == worker.Start({folder_name(60)}, "theirs"), "only own names are taken"
    assert equal(values(state), values(theirs[1]))
    assert lines[1:] == [f"going on from 180 images seen with 1 worker ({tmp_path}/other/{folder_name(180)})"]
    own = write(job, job.run_url, 70, "own")
    assert worker._restore(job, state, 0, 1).attempt == "own", "though the other's is further"
    assert equal(values(state), values(own))


def test_one_of_other_data_is_refused(job: Job, said: list[str | None]) -> None:
    write(job, job.run_url, 60, plan="another")
    with pytest.raises(UserError, match=f"follows plan another, this run {job.plan.digest}: the data changed"):
        worker._restore(job, fresh(job), 0, 1)


def test_what_another_rank_finds_torn_is_not_trained_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    write(job, job.run_url, 60)
    flip(Path(job.run_url) / folder_name(60))
    monkeypatch.setattr(worker, "broadcast_from_rank_zero", lambda _: "")
    with pytest.raises(RuntimeError, match=r"is whole for the first worker, and here: encoder\.safetensors differs"):
        worker._load(job, fresh(job), f"{job.run_url}/{folder_name(60)}", 1)


def test_one_that_became_whole_while_a_worker_looked_is_read_again(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second worker looks before the last file is there, the first one after."""
    state, folder, late = write(job, job.run_url, 60), Path(job.run_url) / folder_name(60), tmp_path / MANIFEST
    (folder / MANIFEST).rename(late)

    def first_says(_: str) -> str:
        late.rename(folder / MANIFEST)
        return ""

    monkeypatch.setattr(worker, "broadcast_from_rank_zero", first_says)
    again = fresh(job)
    assert worker._load(job, again, str(folder), rank=1) is not None
    assert equal(values(again), values(state))


@pytest.mark.slow
def test_the_one_before_is_used_and_the_end_is_the_same(
    one: run.Run, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A byte of the newest one has flipped, and Ray, which writes its list in place, was killed while it did, and the
    driver, which leaves its lock.
    """
    copy = copy_of(one, tmp_path)
    before, last = run.checkpoints(run.load_url(str(copy)).root)[-2:]
    why = flip(Path(last.root.path))
    (copy / RAY_LIST).write_text((copy / RAY_LIST).read_text()[:-20])
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with locked(place(str(copy)) / DRIVER, PRETRAIN) as lock:
        pass
    write_json(lock.file, lock.owner | {"pid": dead.pid, "beat": 3})
    capfd.readouterr()
    record = pretrain(tiny, [phantom_set.root.url], str(tmp_path), "one")
    said = capfd.readouterr().err
    assert not (copy / DRIVER).exists()
    assert f"{last.root.name} is passed over: {why}" in said
    assert f"going on from {before.position} images seen" in said
    with run.newest_whole(record.root.url) as again:
        assert run.checkpoints(record.root)[-1].position == last.position
        whole = {name: load_file(Path(one.root.path) / last.root.name / name) for name in (ENCODER, TARGET, PREDICTOR)}
        assert same_weights(again, whole) == []
