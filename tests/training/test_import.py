"""Published checkpoints: read safely, sizes inferred, numbers reproduced, trained on."""

import argparse
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chexworld_ray import load_encoder
from chexworld_ray.cli import main
from chexworld_ray.config import ModelSettings, ObjectiveSettings, Science
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.fold import IMAGENET, PatchEmbedding, unfold
from chexworld_ray.models.positions import grid_positions, sincos
from chexworld_ray.objectives.world_model import WorldModel
from chexworld_ray.training.initial import start_from
from chexworld_ray.training.state import start_state

PARITY = Path(__file__).parents[2].parent / "shared" / "reference_parity"
FOLDERS = ("easy", "easy_unified", "scaled")
MODEL = ModelSettings(
    image_size=48, patch_size=8, width=48, depth=3, heads=4, predictor_width=32, predictor_depth=1, mlp_width=100
)


def published(path: Path, sizes: ModelSettings = MODEL, scaled: bool = False, **args: Any) -> Path:
    """A checkpoint in the published format with random weights of our model, renamed and unfolded."""
    scaled_model = replace(sizes, scale_code=scaled, compat="chexworld")
    tensors: dict[str, torch.Tensor] = {}
    world = WorldModel(scaled_model, ObjectiveSettings(), build_encoder(scaled_model, 3))
    for prefix in ("encoder.", "target_encoder."):
        state = world.encoder.vit.state_dict()
        colour = unfold(PatchEmbedding(state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]), *IMAGENET)
        state |= {"patch_embed.proj.weight": colour.weight, "patch_embed.proj.bias": colour.bias}
        tensors |= {prefix + key: value for key, value in state.items()}
    names = {"embed": "predictor_embed", "blocks": "predictor_blocks", "norm": "predictor_norm"} | {
        "project": "predictor_proj",
        "mask_token": "mask_token",
        "scale_network": "predictor_pos_mlp",
    }
    for key, value in world.predictor.state_dict().items():
        if key.startswith("action_network.layers."):
            name = key.replace("action_network.layers.", "policy_net.")
            value = value[:, :-1] if name == "policy_net.0.weight" else value
        else:
            head, dot, rest = key.partition(".")
            name = names[head] + dot + rest
        tensors["predictor." + name] = value
    table = sincos(grid_positions(sizes.grid).flip(-1), sizes.predictor_width)
    tensors["predictor.predictor_pos_embed"] = table[None]
    torch.save({"model": tensors, "epoch": 7, "args": argparse.Namespace(**args)}, path)
    return path


@pytest.mark.skipif(not PARITY.is_dir(), reason="../shared/reference_parity is not here")
@pytest.mark.parametrize("name", FOLDERS)
def test_published_numbers_are_reproduced(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = PARITY / name / "checkpoint.pth.tar", tmp_path / "run"
    assert main(["import", str(checkpoint), "--out", str(out), "--verify", str(PARITY / name)]) == 0
    errors = json.loads(capsys.readouterr().out)
    with np.load(PARITY / name / "expected.npz") as expected:
        assert set(errors) == set(expected.files)
        changed = {key: value * 1.001 for key, value in expected.items()}
    assert max(errors.values()) <= 1e-5
    folder = tmp_path / "changed"
    folder.mkdir()
    np.savez(folder / "expected.npz", **changed)
    (folder / "batch.npz").write_bytes((PARITY / name / "batch.npz").read_bytes())
    assert main(["import", str(checkpoint), "--out", str(out), "--verify", str(folder)]) == 1


@pytest.mark.parametrize("scaled", [False, True])
def test_sizes_come_from_the_tensors(scaled: bool, tmp_path: Path) -> None:
    file = published(tmp_path / "c.pth.tar", scaled=scaled, num_heads=4, unify_embed=False)
    assert main(["import", str(file), "--out", str(tmp_path / "run")]) == 0
    encoder, info = load_encoder(str(tmp_path / "run"))
    assert info.model == replace(MODEL, compat="chexworld", scale_code=scaled)
    images = torch.rand(2, 48, 48)
    wanted = build_encoder(replace(MODEL, compat="chexworld"), 3).eval()(images)
    assert torch.allclose(encoder(images), wanted, atol=1e-5)


def test_heads_are_found_asked_for_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = replace(MODEL, width=48, heads=3, predictor_width=24)
    out = ["--out", str(tmp_path / "run")]
    file = str(published(tmp_path / "a", model, model="vit_tiny"))
    assert main(["import", file, *out]) == 0
    file = str(published(tmp_path / "b", model, model="custom"))
    assert main(["import", file, "--out", str(tmp_path / "b-run")]) == 2
    assert "--heads" in capsys.readouterr().err
    assert main(["import", file, "--out", str(tmp_path / "b-run"), "--heads", "3"]) == 0
    assert main(["import", file, *out, "--heads", "3"]) == 2
    assert "another run" in capsys.readouterr().err


class Harm:
    """What a hostile pickle looks like."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("kind", ["zip", "pickle", "args", "text"])
def test_a_file_that_would_run_code_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, trace = tmp_path / "bad.pth.tar", tmp_path / "ran"
    if kind == "zip":
        torch.save({"model": {}, "args": Harm(trace)}, file)
    elif kind == "args":
        torch.save({"model": {}, "args": argparse.Namespace(x=Harm(trace))}, file)
    else:
        file.write_bytes(pickle.dumps(Harm(trace)) if kind == "pickle" else b"not a checkpoint at all")
    assert main(["import", str(file), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "bad.pth.tar" in said
    assert not trace.exists()
    assert not (tmp_path / "run").exists()


def test_training_goes_on_from_an_import(tmp_path: Path) -> None:
    """Encoder, target and predictor come along; the encoder sees the same image through other pixel statistics."""
    file = published(tmp_path / "c.pth.tar", num_heads=4)
    assert main(["import", str(file), "--out", str(tmp_path / "run")]) == 0
    model = replace(MODEL, compat="chexworld")
    science = Science(model=model, init=str(tmp_path / "run"), global_batch=2, seed=5)
    state = start_state(science, 100, torch.device("cpu"))
    before = state.model.predictor.embed.weight.clone()
    start_from(state, science, (0.4, 0.2))
    images = torch.rand(2, 48, 48)
    wanted = build_encoder(model, 3)(images)
    for encoder in (state.model.encoder, state.target):
        assert torch.allclose(encoder((images - 0.4) / 0.2), wanted, atol=1e-4)
    assert not torch.equal(state.model.predictor.embed.weight, before)
