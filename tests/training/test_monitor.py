"""Curves of a run say the same of the same weights: cut in two, in other micro-batches, or by an older program."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.inputs import CPU, PIXELS, SCIENCE, crop_batch
from pages import RECORD, trained

from chexworld_ray.config import Runtime
from chexworld_ray.errors import UserError
from chexworld_ray.reports.html import write_report
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.reader import PADDING_POSITION
from chexworld_ray.storage import place
from chexworld_ray.training import checkpoint, monitor
from chexworld_ray.training.checkpoint_files import MANIFEST, RECENT
from chexworld_ray.training.log import METRICS, read_numbers
from chexworld_ray.training.loop import Callbacks, train
from chexworld_ray.training.state import TrainState, start_state

TOTAL = 64
BATCH = SCIENCE.global_batch
OF_TIME = {"time", "images_per_second", "wait_fraction", "checkpoint_fraction", "memory_gib"}
Save = Callable[[TrainState], None]


def go_on(state: TrainState, save: Save, micro_batch: int = 64) -> list[dict[str, Any]]:
    """To the end; a record each two steps, a checkpoint each three: most of them fall between two records."""
    shares = (crop_batch([*range(at, at + BATCH), PADDING_POSITION]) for at in range(state.position, TOTAL, BATCH))
    runtime = Runtime(micro_batch=micro_batch, log_batches=2, checkpoint_images=3 * BATCH)
    records: list[dict[str, Any]] = []
    callbacks = Callbacks(records.append, lambda state, *, urgent: save(state), lambda: False)
    train(state, shares, SCIENCE, runtime, PIXELS, 1, callbacks)
    return [{name: value for name, value in record.items() if name not in OF_TIME} for record in records]


def start(seed: int = 0) -> TrainState:
    return start_state(dataclasses.replace(SCIENCE, seed=seed), TOTAL, CPU)


def saving_to(folder: Path) -> Save:
    def save(state: TrainState) -> None:
        copy = checkpoint.snapshot(state, SCIENCE.model, PIXELS, {"plan": "p"})
        checkpoint.write(copy, place(str(folder / str(state.position))))

    return save


def no_checkpoint(_state: TrainState) -> None: ...


@pytest.mark.parametrize("images", [20, 512])
def test_a_restart_changes_no_number_of_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    """To the last bit, from every checkpoint, with a window that is shorter than the run and one that is longer."""
    monkeypatch.setattr(monitor, "RANKME_IMAGES", images)
    straight = {record["images_seen"]: record for record in go_on(start(), saving_to(tmp_path))}
    folders = sorted(tmp_path.iterdir(), key=lambda folder: int(folder.name))
    assert len(folders) == 6
    for folder in folders[:-1]:
        state = start(seed=9)  # other weights, all replaced
        checkpoint.load(state, folder)
        again = {record["images_seen"]: record for record in go_on(state, no_checkpoint)}
        assert again == {seen: record for seen, record in straight.items() if seen > int(folder.name)}


def test_micro_batches_and_padding_change_no_number_of_the_records() -> None:
    whole, cut = (go_on(start(), no_checkpoint, micro_batch) for micro_batch in (64, 3))
    for one, other in zip(whole, cut, strict=True):
        assert other == pytest.approx(one, rel=1e-3)


def test_a_checkpoint_of_an_older_program_begins_its_window_anew(tmp_path: Path) -> None:
    go_on(start(), saving_to(tmp_path))
    folder = tmp_path / str(3 * BATCH)
    (folder / RECENT).unlink()
    entries = json.loads((folder / MANIFEST).read_text())["files"]
    (folder / MANIFEST).write_text(json.dumps({"files": {k: v for k, v in entries.items() if k != RECENT}}))
    state = start()
    checkpoint.load(state, folder)
    assert state.recent.features_2ID is None
    assert go_on(state, no_checkpoint)[-1]["images_seen"] == TOTAL


@pytest.mark.parametrize("harm", ["width", "sums", "other"])
def test_a_strangers_window_that_does_not_fit_is_one_line(tmp_path: Path, harm: str) -> None:
    state = start()
    go_on(state, no_checkpoint)
    recent = state.recent
    assert recent.features_2ID is not None
    copy = checkpoint.snapshot(state, SCIENCE.model, PIXELS, {"plan": "p"})
    assert copy.recent is not None
    wrong = {
        "width": {"features": recent.features_2ID[:, :, :5].contiguous()},
        "sums": {"since": torch.zeros(3)},
        "other": {"whatever": torch.zeros(3)},
    }[harm]
    checkpoint.write(copy._replace(recent=copy.recent | wrong), place(str(tmp_path)))
    with pytest.raises(UserError, match=r"recent\.safetensors: the checkpoint's tensors do not fit"):
        checkpoint.load(start(), tmp_path)


def test_what_an_older_program_wrote_is_shown_by_a_name_of_its_own(phantom_set: Manifest, tmp_path: Path) -> None:
    """A run that was begun by one and goes on with this: two curves, for the two are not the same measure."""
    run = trained(tmp_path / "run", SCIENCE, phantom_set)
    old = {name: value for name, value in RECORD.items() if not name.startswith("target_")}
    old |= {"rankme": 99.0, "target_std": 0.5}
    with open(tmp_path / "run" / METRICS, "r+") as file:
        lines = file.readlines()
        file.seek(0)
        file.writelines([json.dumps(old | {"images_seen": 50}) + "\n", *lines])
    first, *others = read_numbers(run.root)
    assert (first["rankme"], first["target_std"]) == (99.0, 0.5)
    assert all(record["target_rankme_centred"] == RECORD["target_rankme_centred"] for record in others)
    page = Path(write_report(run, None)).read_text()
    assert "centred (older program)" in page
    (tmp_path / "run" / METRICS).write_text(json.dumps(old | {"images_seen": 50, "skipped_steps": 0}) + "\n")
    assert "99.0</b>RankMe of target features, not centred" in Path(write_report(run, None)).read_text()


def test_no_name_of_an_older_program_comes_with_a_new_meaning_and_no_number_is_a_version() -> None:
    """For TensorBoard and trackers show a run that goes on under the names that it began with."""
    records = go_on(start(), no_checkpoint)
    assert records
    older = {"rankme", "rankme_prediction", "target_std", "prediction_std", "version"}
    assert all(not older & record.keys() for record in records)
    assert {"target_rankme_centred", "target_std_over_images"} <= records[-1].keys()
