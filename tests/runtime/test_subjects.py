"""Copies of encoders under evaluation: what was kept of others than those that stand there is not used. No Ray."""

from pathlib import Path

import pytest
from states import trained

from chexworld_ray.config import RunSettings
from chexworld_ray.evaluation import features
from chexworld_ray.runtime.subjects import Subject, newest_subject
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import place
from chexworld_ray.training import checkpoint
from chexworld_ray.training.checkpoint_files import MANIFEST, folder_name
from chexworld_ray.training.run import Run, open_or_create


def written(one: Run, position: int, weights: int) -> Path:
    """A checkpoint at a position, with weights that tell another number."""
    state = trained(one.science, one.total, weights)
    state.position = position
    root = one.root / folder_name(position)
    checkpoint.write(checkpoint.snapshot(state, one.science.model, one.pixels, {"plan": "p"}), root)
    return Path(root.path)


def test_weights_that_were_written_anew_at_a_position_are_copied_anew(
    tiny: RunSettings, phantom_set: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a run that was removed and begun again under its name: its features and scores are of other weights."""
    one = open_or_create(place(str(tmp_path / "run")), tiny, [phantom_set], 60)

    def now() -> Subject:
        return newest_subject(one, phantom_set, None)

    folder = written(one, 20, weights=1)
    first = now()
    assert now() == first
    assert first.digest in (folder / MANIFEST).read_text()
    written(one, 20, weights=2)
    second = now()
    assert second.digest in (folder / MANIFEST).read_text()
    kept = second.extraction("features").folder
    assert kept != first.extraction("features").folder
    (folder / MANIFEST).write_text("{")
    assert now() == second, "the copy outlives its checkpoint"
    monkeypatch.setattr(features, "VERSION", 2)
    assert now().extraction("features").folder != kept
