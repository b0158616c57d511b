"""Copies of encoders under evaluation: what was kept of others than those that stand there is not used. No Ray."""

from pathlib import Path

import pytest
from states import trained

from chexworld_ray import storage
from chexworld_ray.config import RunSettings
from chexworld_ray.evaluation import features
from chexworld_ray.evaluation.settings import EvaluationSettings, FinetuneSettings
from chexworld_ray.evaluation.tasks import Task
from chexworld_ray.evaluation.trial import Trial
from chexworld_ray.runtime.evaluate import _file
from chexworld_ray.runtime.subjects import ENCODER, PREDICTOR, Subject, newest_subject, random_subject
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import place
from chexworld_ray.training import checkpoint
from chexworld_ray.training.checkpoint_files import MANIFEST, folder_name
from chexworld_ray.training.run import Run, open_or_create

WITH_PREDICTOR = EvaluationSettings(finetune=FinetuneSettings(predictor=True))
ASKED = Trial(task=Task(name="here", dataset="here"), protocol="finetune")


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
    monkeypatch.setattr(features, "VERSION", 77)
    assert now().extraction("features").folder != kept


def test_weights_that_were_copied_are_not_fetched_again_to_name_what_is_kept_of_them(
    tiny: RunSettings, phantom_set: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = open_or_create(place(str(tmp_path / "run")), tiny, [phantom_set], 60)
    written(one, 20, weights=1)

    def now() -> list[Subject]:
        return [newest_subject(one, phantom_set, None), random_subject(one, phantom_set, None)]

    first = now()
    names = [_file(subject, ASKED, WITH_PREDICTOR) for subject in first]
    fetched: list[str] = []
    whole = storage.fetch

    def fetch(file: storage.Place, *limit: int) -> bytes:
        fetched.append(file.name)
        return whole(file, *limit)

    monkeypatch.setattr(storage, "fetch", fetch)
    again = now()
    assert [_file(subject, ASKED, WITH_PREDICTOR) for subject in again for _ in range(2)] == [
        name for name in names for _ in range(2)
    ]
    assert fetched
    assert not {ENCODER, PREDICTOR} & set(fetched)
    for name in (ENCODER, PREDICTOR):
        beside = first[0].folder / f"{name}.sha256"
        storage.write_bytes(beside, b"nothing of the kind")
    assert now() == first
    assert [_file(subject, ASKED, WITH_PREDICTOR) for subject in now()] == names


def test_of_a_copy_that_a_kill_left_no_digest_of_another_is_believed(
    tiny: RunSettings, phantom_set: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = open_or_create(place(str(tmp_path / "run")), tiny, [phantom_set], 60)
    written(one, 20, weights=1)
    before = newest_subject(one, phantom_set, None)
    name = _file(before, ASKED, WITH_PREDICTOR)
    written(one, 20, weights=2)
    whole = storage.write_bytes

    def killed(file: storage.Place, data: bytes) -> None:
        if file.name == ENCODER:
            raise KeyboardInterrupt
        whole(file, data)

    with monkeypatch.context() as changed:
        changed.setattr(storage, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            newest_subject(one, phantom_set, None)
    after = newest_subject(one, phantom_set, None)
    assert after.digest != before.digest
    assert after.predictor_digest != before.predictor_digest
    assert _file(after, ASKED, WITH_PREDICTOR) != name
