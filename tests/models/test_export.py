"""An exported encoder, opened with the line that was printed, computes what the run's encoder computes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chexworld_ray import load_encoder
from chexworld_ray.cli import main
from chexworld_ray.config import ModelSettings
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.export import network_input
from chexworld_ray.models.weights import encoder_bytes

MODEL = ModelSettings(
    image_size=48, patch_size=12, width=32, depth=2, heads=2, predictor_width=16, predictor_depth=1, mlp_width=100
)


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    file = tmp_path / "run.safetensors"
    file.write_bytes(encoder_bytes(build_encoder(MODEL, 0).vit.state_dict(), MODEL, (0.45, 0.22), 640))
    return file


@pytest.mark.parametrize(
    ("kind", "channels"),
    [*((kind, channels) for kind in ("safetensors", "timm", "hf") for channels in (1, 3)), ("onnx", 3)],
)
@pytest.mark.filterwarnings("ignore")
def test_the_printed_line_opens_the_same_encoder(
    kind: str, channels: int, encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "--run", str(encoder_file), "--format", kind, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--channels", str(channels)]) == 0
    line = capsys.readouterr().out.strip()
    assert "\n" not in line
    encoder, info = load_encoder(str(encoder_file))
    grey = torch.rand(3, 48, 48)
    images = network_input(grey, info, channels)
    assert images.shape == (3, channels, 48, 48)
    opened: dict[str, Any] = {"images": images.numpy()}
    exec(line, opened)
    got = torch.from_numpy(opened["tokens"]) if kind == "onnx" else opened["model"](images)
    wanted = encoder((grey - 0.45) / 0.22)
    assert got.shape == (3, 16, 32)
    assert torch.allclose(got, wanted, atol=1e-5)


def test_export_resamples_and_our_own_file_is_read_again(encoder_file: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path), "--image-size", "64", "--patch-size", "8"]
    assert main(["export", "--run", str(encoder_file), *out, "--json"]) == 0
    encoder, info = load_encoder(str(tmp_path / "encoder.safetensors"))
    assert info.model == replace(MODEL, image_size=64, patch_size=8)
    assert (info.mean, info.std, info.images_seen) == (0.45, 0.22, 640)
    images = torch.rand(2, 64, 64)
    wanted, _ = load_encoder(str(encoder_file), image_size=64, patch_size=8)
    assert torch.equal(encoder(images), wanted(images))
    assert encoder(images).shape == (2, 64, 32)


def test_sizes_that_do_not_fit_are_one_line(encoder_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--run", str(encoder_file), "--image-size", "50"]) == 2
    assert "multiple" in capsys.readouterr().err
