"""The newest checkpoint is torn: two workers use the one before, with a line, and the run ends the same. What else can
be wrong with a folder is tried in `training/test_training.py`.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from finished import copy_of
from safetensors.torch import load_file
from straight import same_weights

from chexworld_ray.config import RunSettings
from chexworld_ray.runtime import worker
from chexworld_ray.runtime.job import Job
from chexworld_ray.runtime.pretrain import RAY_LIST, _listed, _remove_orphans, pretrain
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import make_plan
from chexworld_ray.storage import place, write_bytes, write_json
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.checkpoint_files import ENCODER, MANIFEST, PREDICTOR, TARGET
from chexworld_ray.training.state import start_state


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


def test_one_that_became_whole_while_a_worker_looked_is_read_again(
    phantom_set: Manifest, tiny: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second worker looks before the last file is there, the first one after."""
    science, device, pixels = tiny.science, torch.device("cpu"), (0.5, 0.2)
    plan = make_plan([phantom_set], science.splits, science.projections, science.seed)
    job = Job(tiny, [phantom_set.root.url], plan, pixels, str(tmp_path), None, 100, None)
    state = start_state(science, job.total, device)
    state.position = 60
    folder, late = tmp_path / "checkpoint_000000000060", tmp_path / MANIFEST
    checkpoint.write(checkpoint.snapshot(state, science.model, pixels, {"plan": plan.digest}), place(str(folder)))
    (folder / MANIFEST).rename(late)

    def first_says(_: str) -> str:
        late.rename(folder / MANIFEST)
        return ""

    monkeypatch.setattr(worker, "broadcast_from_rank_zero", first_says)
    again = start_state(science, job.total, device)
    assert worker._load(job, again, str(folder), rank=1) is not None
    assert again.position == 60


@pytest.mark.slow
def test_the_one_before_is_used_and_the_end_is_the_same(
    two: run.Run, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A byte of the newest one has flipped; two workers look at it."""
    copy = copy_of(two, tmp_path)
    before, last = run.checkpoints(run.load_url(str(copy)).root)[-2:]
    file = Path(last.root.path) / ENCODER
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    capfd.readouterr()
    runtime = dataclasses.replace(tiny.runtime, workers="2", record_seen=True, probe_images=0, tensorboard=False)
    settings = dataclasses.replace(tiny, runtime=runtime)
    record = pretrain(settings, [phantom_set.root.url], str(tmp_path), "two")
    said = capfd.readouterr().err
    assert f"{last.root.name} is passed over: {ENCODER} differs" in said
    assert f"going on from {before.position} images seen" in said
    with run.newest_whole(record.root.url) as again:
        assert run.checkpoints(record.root)[-1].position == last.position
        whole = {name: load_file(Path(two.root.path) / last.root.name / name) for name in (ENCODER, TARGET, PREDICTOR)}
        assert same_weights(again, whole) == []
