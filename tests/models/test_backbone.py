"""Encoders as an evaluation sees them: ours, with and without predictor, and timm's."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load, save

from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.backbone import HEADER_KEY, Size, read_backbone, timm_bytes
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.predictor import Predictor
from chexworld_ray.models.weights import EncoderInfo, encoder_bytes, pooled_features, read_encoder

MODEL = ModelSettings(image_size=48, patch_size=12, width=24, depth=2, heads=2, predictor_width=24, predictor_depth=1)
NAME = "test_vit"


@pytest.fixture
def ours() -> bytes:
    return encoder_bytes(build_encoder(MODEL, 0).vit.state_dict(), MODEL, (0.5, 0.2), 7)


@pytest.fixture
def views() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (3, 48, 48)).astype(np.uint8)


def test_ours_gives_the_features_that_training_probes(ours: bytes, views: np.ndarray) -> None:
    backbone = read_backbone(ours, "here")
    encoder, info = read_encoder(ours, "here")
    wanted = pooled_features(encoder, EncoderInfo(info.model, 0.5, 0.2, 7), views, torch.device("cpu"))
    with torch.no_grad():
        found = backbone(torch.from_numpy(views))
    assert found.shape == (3, 16, 24)
    assert np.allclose(found.mean(dim=1).numpy(), wanted, atol=1e-5)
    assert read_backbone(ours, "here", Size(image=96, patch=6))(torch.zeros(1, 96, 96)).shape == (1, 256, 24)


def test_layers_near_the_pixels_learn_slower_and_positions_stay(ours: bytes) -> None:
    backbone = read_backbone(ours, "here", drop_path=0.5).requires_grad_(True)
    groups = backbone.groups(1.0, 0.05, 0.5)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    by_name = {name: rate.get(id(parameter)) for name, parameter in backbone.net.named_parameters()}
    blocks = [by_name[f"blocks.{number}.attn.qkv.weight"] for number in range(2)]
    assert by_name["patch_embed.proj.weight"] < blocks[0] < blocks[1] <= by_name["norm.weight"]  # type: ignore[operator]
    assert len(rate) == sum(1 for p in backbone.net.parameters() if p.requires_grad)
    backbone.train()
    views = torch.randint(0, 255, (8, 48, 48), dtype=torch.uint8)
    assert not torch.equal(backbone(views), backbone(views)), "drop path is on in training"
    backbone.eval()
    assert torch.equal(backbone(views), backbone(views))


def test_the_predictor_answers_for_every_patch_and_is_trained_too(ours: bytes, views: np.ndarray) -> None:
    predictor = Predictor(MODEL)
    backbone = read_backbone(ours, "here", predictor=save(predictor.state_dict())).requires_grad_(True)
    found = backbone(torch.from_numpy(views))
    assert found.shape == (3, 16, 24)
    found.square().mean().backward()
    given = {id(parameter) for group in backbone.groups(1.0, 0.0, 0.5) for parameter in group["params"]}
    learning = {id(parameter) for parameter in backbone.parameters() if parameter.grad is not None}
    assert learning <= given
    assert any(id(parameter) in given for name, parameter in backbone.named_parameters() if "project" in name)


@pytest.mark.parametrize(("name", "tokens"), [("test_vit", 36), ("resnet10t", 9), ("test_efficientnet", 9)])
def test_any_model_of_timm_gives_a_square_of_tokens(name: str, tokens: int, tmp_path: Path) -> None:
    torch.save(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "w.pth")
    backbone = read_backbone(timm_bytes(f"timm:{name}@{tmp_path / 'w.pth'}"), "here", Size(image=96))
    with torch.no_grad():
        found = backbone.eval()(torch.zeros(2, 96, 96, dtype=torch.uint8))
    assert found.shape == (2, tokens, backbone.width)


def test_timm_sees_three_equal_channels_normalised_as_it_wants(tmp_path: Path, views: np.ndarray) -> None:
    net = timm.create_model(NAME, pretrained=False, num_classes=0).eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    backbone = read_backbone(timm_bytes(f"timm:{NAME}@{tmp_path / 'w.pth'}"), "here").eval()
    side = backbone.image_size
    enlarged = torch.from_numpy(np.kron(views, np.ones((1, 4, 4), np.uint8))[:, :side, :side])
    cfg = net.pretrained_cfg
    pixels = enlarged[:, None].float().expand(-1, 3, -1, -1) / 255
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = net.forward_features((pixels - mean) / std)[:, net.num_prefix_tokens :]
        assert torch.allclose(backbone(enlarged), wanted, atol=1e-5)


def test_other_names_in_the_same_order_are_taken_and_other_weights_are_not(tmp_path: Path) -> None:
    weights = timm.create_model(NAME, pretrained=False).state_dict()
    plain = timm_bytes(f"timm:{NAME}@{_saved(weights, tmp_path / 'a.pth')}")
    renamed = {f"theirs.{number}": value for number, value in enumerate(weights.values())}
    assert timm_bytes(f"timm:{NAME}@{_saved(renamed, tmp_path / 'b.pth')}") == plain
    with pytest.raises(UserError, match="other weights"):
        timm_bytes(f"timm:{NAME}@{_saved(dict(list(weights.items())[3:]), tmp_path / 'c.pth')}")


def test_what_is_no_encoder_is_one_line(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Harm()))
    for source, words in (
        ("timm:no_such_net", "no_such_net"),
        (f"timm:{NAME}@{tmp_path / 'gone.pth'}", "no file"),
        (f"timm:{NAME}@{tmp_path / 'bad.pth'}", "not a file of weights"),
    ):
        with pytest.raises(UserError, match=words):
            timm_bytes(source)
    with pytest.raises(UserError, match="not the file of an encoder"):
        read_backbone(b"nothing", "here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "hf-hub:somebody/model"}, "no architecture of timm"),
        ({"name": "local-dir:/tmp"}, "no architecture of timm"),
        ({"name": 7}, "no architecture of timm"),
        ({"image_size": 1_000_000}, "a side"),
        ({"mean": [0.5] * 1000}, "standard deviation"),
    ],
)
def test_a_strangers_file_has_timm_ask_nobody(
    change: dict[str, object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weights = timm.create_model(NAME, pretrained=False).state_dict()
    tensors = load(timm_bytes(f"timm:{NAME}@{_saved(weights, tmp_path / 'a.pth')}"))
    header = {"name": NAME, "image_size": 160, "mean": [0.5] * 3, "std": [0.5] * 3} | change
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(UserError, match=words):
        read_backbone(save(tensors, metadata={HEADER_KEY: json.dumps(header)}), "theirs")


def _saved(weights: dict[str, torch.Tensor], file: Path) -> Path:
    torch.save(weights, file)
    return file
