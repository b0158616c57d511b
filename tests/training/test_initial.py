"""`--init` from timm: the same features on grey images, whatever the channels; what is no plain ViT is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer

from chexworld_ray.config import ModelSettings, Science
from chexworld_ray.errors import UserError
from chexworld_ray.training.initial import absolute, model_of, read_start, start_from
from chexworld_ray.training.state import start_state

BASE = ModelSettings(image_size=64, width=48, depth=2, heads=4, predictor_width=200, predictor_depth=1)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NAME = "vit_tiny_patch16_224"


def timm_vit(name: str = NAME, **options: Any) -> Any:
    torch.manual_seed(1)
    model = timm.create_model(name, img_size=64, num_classes=5, **options).eval()
    torch.nn.init.normal_(model.pos_embed)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def tokens_without_positions(model: Any, images_B3HW: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """timm's own blocks and norm on patch tokens with other positions and no class token."""
    tokens = model.patch_embed(images_B3HW) + positions
    for block in model.blocks:
        tokens = block(tokens)
    return model.norm(tokens)


@pytest.mark.parametrize("source", ["file", "named"])
@pytest.mark.parametrize(
    "options", [{}, {"init_values": 0.3}, {"qkv_bias": False}], ids=["plain", "layer scale", "no bias of qkv"]
)
def test_a_timm_vit_is_taken_over(source: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = timm_vit(**options)
    file = tmp_path / "vit.pth"
    torch.save(model.state_dict(), file)
    init = str(file) if source == "file" else f"timm:{NAME}@{file}"
    sizes = model_of(init, BASE)
    assert (sizes.width, sizes.depth, sizes.heads, sizes.image_size) == (192, 12, 3, 64)
    assert sizes.predictor_width == 204  # the smallest from 200 on that 3 heads and 4 divide
    state = start_state(Science(model=sizes, init=init, global_batch=2), 100, torch.device("cpu"))
    start_from(state, Science(model=sizes, init=init, global_batch=2), (0.5, 0.25))
    grey = torch.rand(2, 64, 64)
    statistics = (
        model.pretrained_cfg if source == "named" else {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    )
    mean, std = (torch.tensor(statistics[name])[:, None, None] for name in ("mean", "std"))
    positions = state.target.vit.pos_embed
    assert positions is not None
    with torch.no_grad():
        wanted = tokens_without_positions(model, (grey[:, None] - mean) / std, positions)
        got = state.target((grey - 0.5) / 0.25)
    assert torch.allclose(got, wanted, atol=2e-4)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    torch.save(timm_vit().state_dict(), tmp_path / "vit.pth")
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    torch.save(timm_vit(qk_norm=True).state_dict(), tmp_path / "qk.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    for init, words in (
        (str(tmp_path / "none.pth"), "no run or checkpoint.*no such file"),
        (str(tmp_path), "no run or checkpoint.*a folder, not a file"),
        (str(tmp_path / "noise.pth"), "not a file of weights"),
        (str(tmp_path / "resnet.pth"), "not a plain ViT"),
        (str(tmp_path / "qk.pth"), "q_norm"),
        ("timm:no_such_model", "no_such_model"),
        (f"timm:resnet18@{tmp_path / 'resnet.pth'}", "not a plain vision transformer"),
    ):
        with pytest.raises(UserError, match=words):
            read_start(init, BASE)
    science = Science(model=BASE, init=str(tmp_path / "vit.pth"), global_batch=2)
    with pytest.raises(UserError, match="width 192"):
        start_from(start_state(science, 100, torch.device("cpu")), science, (0.5, 0.25))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"block_fn": ResPostBlock}, "ResPostBlock"),
        ({"block_fn": ParallelScalingBlock}, "ParallelScalingBlock"),
        ({"act_layer": "quick_gelu"}, "QuickGELU"),
    ],
)
def test_blocks_that_compute_something_else_from_the_same_tensors_are_refused(
    options: dict[str, Any], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=24, depth=1, num_heads=3, **options)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: model)
    with pytest.raises(UserError, match=f"not a plain ViT: its blocks have a {part}"):
        model_of("timm:some_vit", BASE)


def test_another_patch_and_image_size_are_resampled(tmp_path: Path) -> None:
    file = tmp_path / "vit.pth"
    torch.save(timm_vit().state_dict(), file)
    sizes = replace(model_of(str(file), BASE), image_size=96, patch_size=8)
    science = Science(model=sizes, init=str(file), global_batch=2)
    state = start_state(science, 100, torch.device("cpu"))
    start_from(state, science, (0.0, 1.0))
    assert state.target(torch.rand(1, 96, 96)).shape == (1, 144, 192)


def test_a_start_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and later starts stand in other folders."""
    monkeypatch.chdir(tmp_path)
    assert absolute("runs/first") == str(tmp_path / "runs" / "first")
    assert absolute("timm:vit_tiny_patch16_224@vit.pth") == f"timm:vit_tiny_patch16_224@{tmp_path / 'vit.pth'}"
    assert absolute("timm:vit_tiny_patch16_224") == "timm:vit_tiny_patch16_224"
    assert absolute("memory://runs/first") == "memory:///runs/first"
