"""A run is held against what it started from, to the last bit; told `--init`, it has two floors. Without Ray."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from scores import scored
from torch import Tensor

from chexworld_ray.analysis.world import floor_worlds
from chexworld_ray.config import ModelSettings, RunSettings, Science
from chexworld_ray.evaluation.results import Kind, result_rows
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.weights import encoder_bytes, read_encoder
from chexworld_ray.runtime.subjects import PREDICTOR, Subject, floors
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import fetch, place
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.initial import begin
from chexworld_ray.training.run import Run
from chexworld_ray.training.start import START, copy_start, start_of
from chexworld_ray.training.state import TrainState, start_state

MODEL = ModelSettings(image_size=48, patch_size=12, width=32, depth=2, heads=2, predictor_width=16, predictor_depth=1)
CPU = torch.device("cpu")
Weights = dict[str, Tensor]


def begun(root: Path, data: Manifest, science: Science) -> tuple[Run, TrainState]:
    """A run, and what its workers start from."""
    one = run.open_or_create(place(str(root)), RunSettings(science=science), [data], 60)
    state = start_state(one.science, one.total, CPU)
    if science.init is not None:
        checkpoint.write(begin(state, one.science, one.pixels), one.root / START)
    return one, state


def told_to_start(tmp_path: Path, data: Manifest) -> tuple[Run, TrainState]:
    """By `--init`, from an encoder's file, which is gone afterwards."""
    file = tmp_path / "other.safetensors"
    file.write_bytes(encoder_bytes(build_encoder(MODEL, 99).vit.state_dict(), MODEL, (0.4, 0.3), 640))
    found = begun(tmp_path / "run", data, Science(model=MODEL, init=str(file), global_batch=10))
    file.unlink()
    return found


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def held(subject: Subject) -> tuple[Weights, Weights]:
    """Target encoder and predictor of a floor."""
    encoder, info = read_encoder(fetch(subject.encoder), "the floor")
    assert info.images_seen == 0
    return encoder.vit.state_dict(), load(fetch(subject.folder / PREDICTOR))


@pytest.mark.parametrize("seed", [0, 5])
def test_the_floor_is_the_very_model_that_training_starts_from(
    phantom_set: Manifest, tmp_path: Path, seed: int
) -> None:
    """Its predictor was of another seed."""
    one, state = begun(tmp_path / "run", phantom_set, Science(model=MODEL, seed=seed, global_batch=10))
    (subject,) = floors(one, phantom_set, None)
    encoder, predictor = held(subject)
    assert same(encoder, state.target.vit.state_dict())
    assert same(predictor, state.model.predictor.state_dict())
    (world,) = floor_worlds(one, CPU)
    assert world.name == "random"
    assert same(world.encoder.state_dict(), state.model.encoder.state_dict())
    assert same(world.target.state_dict(), state.target.state_dict())
    assert same(world.predictor.state_dict(), state.model.predictor.state_dict())


def test_a_floor_of_an_earlier_version_is_not_taken_for_it(phantom_set: Manifest, tmp_path: Path) -> None:
    one, state = begun(tmp_path / "run", phantom_set, Science(model=MODEL, global_batch=10))
    old = tmp_path / "run" / "evaluations" / phantom_set.data_version / "random"
    old.mkdir(parents=True)
    for name in ("target.safetensors", "predictor.safetensors"):
        (old / name).write_bytes(b"of another seed")
    (subject,) = floors(one, phantom_set, None)
    assert same(held(subject)[1], state.model.predictor.state_dict())


def test_a_run_told_init_has_two_floors(phantom_set: Manifest, tmp_path: Path) -> None:
    one, state = told_to_start(tmp_path, phantom_set)
    random, start = floors(one, phantom_set, None)
    assert (random.kind, start.kind) == ("random", "start")
    plain = start_state(one.science, one.total, CPU)
    assert same(held(random)[0], plain.target.vit.state_dict())
    assert same(held(start)[0], state.target.vit.state_dict())
    assert not same(held(start)[0], held(random)[0])
    assert same(held(start)[1], state.model.predictor.state_dict())
    worlds = floor_worlds(one, CPU)
    assert [world.name for world in worlds] == ["start", "random"]
    assert same(worlds[0].encoder.state_dict(), state.model.encoder.state_dict())
    assert same(worlds[1].encoder.state_dict(), plain.model.encoder.state_dict())


def test_a_run_that_goes_on_from_another_has_its_start(phantom_set: Manifest, tmp_path: Path) -> None:
    one, state = told_to_start(tmp_path, phantom_set)
    other = run.open_or_create(place(str(tmp_path / "other")), RunSettings(science=one.science), [phantom_set], 60)
    for _ in range(2):
        copy_start(one, other.root)
    _, start = floors(other, phantom_set, None)
    assert same(held(start)[0], state.target.vit.state_dict())


def test_a_run_that_kept_no_start_is_held_against_random_weights_and_says_so(
    phantom_set: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    science = Science(model=MODEL, init="timm:vit_tiny_patch16_224", global_batch=10)
    one = run.open_or_create(place(str(tmp_path / "run")), RunSettings(science=science), [phantom_set], 60)
    assert start_of(one) is None
    assert [subject.kind for subject in floors(one, phantom_set, None)] == ["random"]
    assert "kept no start" in capsys.readouterr().err
    assert [world.name for world in floor_worlds(one, CPU)] == ["random"]


def test_a_checkpoint_is_compared_with_both_floors() -> None:
    kinds: tuple[Kind, ...] = ("random", "start", "checkpoint")
    trials = [replace(scored("run", 0, quality), kind=kind) for quality, kind in enumerate(kinds)]
    found = {row.encoder: row.value for row in result_rows(trials) if row.task == "here/mean"}
    assert found.keys() == {"run-0@random", "run-0@start", "run-0@100", "run-0@100 - random", "run-0@100 - start"}
    assert found["run-0@100 - random"] > found["run-0@100 - start"] > 0
