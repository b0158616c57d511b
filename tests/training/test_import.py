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
from plain_method import encode, expected_numbers, weights_of
from published import Checkpoint, random_batch, random_checkpoint, read_checkpoint, write_parity_folder

from chexworld_ray import load_encoder
from chexworld_ray.cli import main
from chexworld_ray.config import ModelSettings, Science
from chexworld_ray.training.initial import start_from
from chexworld_ray.training.state import start_state

PARITY = Path(__file__).parents[2].parent / "shared" / "reference_parity"
RECORDED = pytest.mark.skipif(
    not PARITY.is_dir(), reason="../shared/reference_parity, recorded from the published code, is not beside this clone"
)
MODEL = ModelSettings(
    image_size=48,
    patch_size=8,
    width=48,
    depth=3,
    heads=4,
    predictor_width=32,
    predictor_depth=2,
    mlp_width=100,
    compat="chexworld",
)
KINDS = {
    "easy": MODEL,
    "easy_unified": replace(MODEL, compat="chexworld_unified"),
    "scaled": replace(MODEL, scale_code=True),
}
IMAGES_BHW = torch.from_numpy(random_batch(MODEL)["image1"][:, 0])


def tokens_of(published: Checkpoint, part: str) -> torch.Tensor:
    """What a published encoder makes of the images."""
    return encode(weights_of(published, part), MODEL.heads, IMAGES_BHW[:, None]).float()


@pytest.fixture(
    params=[
        *(pytest.param(sizes, id=name) for name, sizes in KINDS.items()),
        *(pytest.param(PARITY / name, id=f"recorded-{name}", marks=RECORDED) for name in KINDS),
    ]
)
def parity_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """checkpoint.pth.tar, batch.npz and expected.npz: of the plain method, or recorded from the published code."""
    if isinstance(request.param, Path):
        return request.param
    folder = tmp_path / "parity"
    folder.mkdir()
    return write_parity_folder(folder, request.param)


def test_published_numbers_are_reproduced(
    parity_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported = ["import", str(parity_folder / "checkpoint.pth.tar"), "--out", str(tmp_path / "run"), "--verify"]
    assert main([*imported, str(parity_folder)]) == 0
    errors = json.loads(capsys.readouterr().out)
    with np.load(parity_folder / "expected.npz") as expected:
        assert set(errors) == set(expected.files)
        changed = {key: value * 1.001 for key, value in expected.items()}
    assert max(errors.values()) <= 1e-5  # what is promised; float32 against float64 differs by 1e-6
    folder = tmp_path / "changed"
    folder.mkdir()
    np.savez(folder / "expected.npz", **changed)
    (folder / "batch.npz").write_bytes((parity_folder / "batch.npz").read_bytes())
    assert main([*imported, str(folder)]) == 1
    assert min(json.loads(capsys.readouterr().out).values()) > 1e-5  # every array is compared, not the worst alone


@RECORDED
@pytest.mark.parametrize("name", KINDS)
def test_the_plain_method_computes_what_the_published_code_did(name: str) -> None:
    """So that the numbers it stands in for elsewhere are the right ones."""
    with np.load(PARITY / name / "batch.npz") as batch, np.load(PARITY / name / "expected.npz") as expected:
        got = expected_numbers(read_checkpoint(PARITY / name / "checkpoint.pth.tar"), dict(batch))
        errors = {key: np.abs(got[key] - value).max() / np.abs(value).max() for key, value in expected.items()}
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("scaled", [False, True])
def test_sizes_come_from_the_tensors(scaled: bool, tmp_path: Path) -> None:
    sizes = replace(MODEL, scale_code=scaled)
    published = random_checkpoint(sizes, num_heads=4)
    torch.save(published, tmp_path / "c.pth.tar")
    assert main(["import", str(tmp_path / "c.pth.tar"), "--out", str(tmp_path / "run")]) == 0
    encoder, info = load_encoder(str(tmp_path / "run"))
    assert info.model == sizes
    assert torch.allclose(encoder(IMAGES_BHW), tokens_of(published, "target_encoder"), atol=1e-5)


def test_heads_are_found_asked_for_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = replace(MODEL, width=48, heads=3, predictor_width=24)
    out = ["--out", str(tmp_path / "run")]
    file = str(tmp_path / "a")
    torch.save(random_checkpoint(sizes, model="vit_tiny"), file)
    assert main(["import", file, *out]) == 0
    file = str(tmp_path / "b")
    torch.save(random_checkpoint(sizes, model="custom"), file)
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
    published = random_checkpoint(MODEL, num_heads=4)
    torch.save(published, tmp_path / "c.pth.tar")
    assert main(["import", str(tmp_path / "c.pth.tar"), "--out", str(tmp_path / "run")]) == 0
    science = Science(model=MODEL, init=str(tmp_path / "run"), global_batch=2, seed=5)
    state = start_state(science, 100, torch.device("cpu"))
    start_from(state, science, (0.4, 0.2))
    for encoder, part in ((state.model.encoder, "encoder"), (state.target, "target_encoder")):
        assert torch.allclose(encoder((IMAGES_BHW - 0.4) / 0.2), tokens_of(published, part), atol=1e-5)
    embed = published["model"]["predictor.predictor_embed.weight"]
    assert torch.equal(state.model.predictor.embed.weight, embed)
