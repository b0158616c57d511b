"""Encoder, predictor and positions against their definitions."""

from pathlib import Path

import pytest
import timm
import torch

from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.positions import grid_positions, sincos
from chexworld_ray.models.predictor import Predictor, QueryTensors
from chexworld_ray.models.weights import encoder_bytes, read_encoder

SETTINGS = ModelSettings(
    image_size=64, patch_size=16, width=48, depth=2, heads=3, predictor_width=24, predictor_depth=2
)


def test_position_codes_follow_the_definition() -> None:
    """s(x) = [sin xω, cos xω], ω_c = 10000^(-c/(D/4)); code = [s(row), s(col)]."""
    width, row, col = 24, 2.5, -3.0
    omega = torch.tensor([10000 ** (-c / (width / 4)) for c in range(width // 4)])
    wanted = torch.cat([(row * omega).sin(), (row * omega).cos(), (col * omega).sin(), (col * omega).cos()])
    assert torch.allclose(sincos(torch.tensor([[row, col]]), width)[0], wanted, atol=1e-6)
    assert grid_positions(3)[5].tolist() == [1.0, 2.0]


def test_all_tokens_in_any_order_give_the_whole_image() -> None:
    encoder = build_encoder(SETTINGS, 0).eval()
    images = torch.randn(2, 64, 64)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    whole = encoder(images)
    some = encoder(images, order, torch.ones(2, 16, dtype=torch.bool))
    assert torch.allclose(some, whole.gather(1, order[..., None].expand(-1, -1, 48)), atol=1e-5)


def test_padding_tokens_are_not_seen() -> None:
    encoder = build_encoder(SETTINGS, 0).eval()
    images = torch.randn(1, 64, 64)
    short = encoder(images, torch.tensor([[3, 7, 9]]))
    valid = torch.tensor([[True, True, True, False, False]])
    padded = encoder(images, torch.tensor([[3, 7, 9, 1, 2]]), valid)
    assert torch.allclose(padded[:, :3], short, atol=1e-5)


def test_predictor_ignores_padding_and_uses_position_and_action() -> None:
    torch.manual_seed(0)
    predictor = Predictor(SETTINGS).eval()
    context, place = torch.randn(1, 4, 48), grid_positions(4)[None, :4]
    query, action = grid_positions(4)[None, 8:11], torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    seen, wanted, same = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 2)
    out = predictor(context, place, seen, QueryTensors(query, wanted, same, action))
    padded = QueryTensors(torch.cat([query, query + 99], dim=1), torch.cat([wanted, ~wanted], dim=1), same, action)
    assert torch.allclose(predictor(context, place, seen, padded)[:, :3], out, atol=1e-5)
    for changed in (
        QueryTensors(query + 0.5, wanted, same, action),
        QueryTensors(query, wanted, same, action * 1.3),
        QueryTensors(query, wanted, same, action + torch.eye(6)[5]),
    ):
        assert not torch.allclose(predictor(context, place, seen, changed), out, atol=1e-6)


def test_encoder_file_stands_alone_and_timm_reads_it(tmp_path: Path) -> None:
    encoder = build_encoder(SETTINGS, 4).eval()
    data = encoder_bytes(encoder.vit.state_dict(), SETTINGS, (0.5, 0.25), 640)
    (tmp_path / "encoder.safetensors").write_bytes(data)
    again, info = read_encoder((tmp_path / "encoder.safetensors").read_bytes(), "x")
    assert (info.model, info.mean, info.std, info.images_seen) == (SETTINGS, 0.5, 0.25, 640)
    images = torch.randn(2, 64, 64)
    plain = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=64,
        embed_dim=48,
        depth=2,
        num_heads=3,
        in_chans=1,
        class_token=False,
        global_pool="",
        num_classes=0,
    )
    plain.load_state_dict(again.vit.state_dict())
    assert torch.allclose(again(images), encoder(images))
    assert torch.allclose(plain.eval()(images[:, None]), encoder(images), atol=1e-5)


def test_a_foreign_file_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"x\.bin: not an encoder file"):
        read_encoder(b"\x80\x04pickle", "x.bin")


def test_seed_decides_the_weights_and_leaves_torch_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a, b, c = build_encoder(SETTINGS, 0), build_encoder(SETTINGS, 0), build_encoder(SETTINGS, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    images = torch.randn(1, 64, 64)
    assert torch.equal(a.eval()(images), b.eval()(images))
    assert not torch.equal(a(images), c.eval()(images))
