"""Channels, pixel scales, patch and image sizes: changed without changing what the encoder computes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from chexworld_ray.config import ModelSettings
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.fold import IMAGENET, PatchEmbedding, colour_gradient, fold, resample, rescale, unfold
from chexworld_ray.models.weights import EncoderInfo, resampled

MODEL = ModelSettings(image_size=64, patch_size=16, width=48, depth=2, heads=3, predictor_width=24, predictor_depth=1)


def embed(patch: PatchEmbedding, pixels: torch.Tensor) -> torch.Tensor:
    return F.conv2d(pixels, patch.weight, patch.bias, stride=8)


def normalised(grey_BHW: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=grey_BHW.dtype)[:, None, None] for values in IMAGENET)
    return (grey_BHW[:, None] - mean) / std


@given(st.integers(0, 1000))
def test_folding_is_exact_both_ways(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    colour = PatchEmbedding(torch.randn(16, 3, 8, 8, generator=generator), torch.randn(16, generator=generator))
    grey_BHW = torch.rand(2, 16, 16, generator=generator)
    wanted = embed(colour, normalised(grey_BHW))
    grey = fold(colour, *IMAGENET)
    assert torch.allclose(embed(grey, grey_BHW[:, None]), wanted, atol=1e-4)
    assert torch.allclose(embed(unfold(grey, *IMAGENET), normalised(grey_BHW)), wanted, atol=1e-4)
    again = fold(unfold(grey, *IMAGENET), *IMAGENET)
    assert torch.allclose(again.weight, grey.weight, atol=1e-6)
    assert torch.allclose(again.bias, grey.bias, atol=1e-4)
    other = rescale(grey, (0.0, 1.0), (0.4, 0.2))
    assert torch.allclose(embed(other, (grey_BHW[:, None] - 0.4) / 0.2), wanted, atol=1e-4)


def test_gradient_of_the_colour_embedding_follows_from_the_grey_one() -> None:
    colour = PatchEmbedding(torch.randn(4, 3, 8, 8).double(), torch.randn(4).double())
    leaves = PatchEmbedding(*(value.clone().requires_grad_() for value in colour))
    grey_BHW = torch.rand(2, 16, 16).double()
    embed(leaves, normalised(grey_BHW)).square().sum().backward()
    grey = PatchEmbedding(*(value.detach().requires_grad_() for value in fold(colour, *IMAGENET)))
    embed(grey, grey_BHW[:, None]).square().sum().backward()
    assert grey.weight.grad is not None
    assert grey.bias.grad is not None
    got = colour_gradient(PatchEmbedding(grey.weight.grad, grey.bias.grad), *IMAGENET)
    assert leaves.weight.grad is not None
    assert torch.allclose(got.weight, leaves.weight.grad)


def test_resampled_encoder_sees_the_same_smooth_image() -> None:
    """A linear ramp has the same pooled tokens on a finer grid of smaller patches, nearly."""
    encoder = build_encoder(MODEL, 0).eval()
    with torch.no_grad():
        encoder.vit.patch_embed.proj.weight.copy_(
            torch.nn.functional.avg_pool2d(  # smooth kernels, as trained ones are
                encoder.vit.patch_embed.proj.weight, 5, 1, 2
            )
        )
    info = EncoderInfo(MODEL, 0.0, 1.0, 0)
    for size, patch in ((64, 16), (32, 8), (128, 32), (128, 16)):
        other, other_info = resampled(encoder, info, size, patch)
        assert (other_info.model.image_size, other_info.model.patch_size) == (size, patch)
        ramp = torch.linspace(0, 1, size).expand(1, size, size)
        base = torch.linspace(0, 1, 64).expand(1, 64, 64)
        with torch.no_grad():
            tokens, wanted = other(ramp), encoder(base)
        assert tokens.shape[1] == (size // patch) ** 2
        likeness = F.cosine_similarity(tokens.mean(dim=1), wanted.mean(dim=1))
        assert float(likeness) > (0.999 if (size, patch) == (64, 16) else 0.95)


@pytest.mark.parametrize("swapped", [False, True])
def test_resampled_positions_lie_between_the_old_ones(swapped: bool) -> None:
    """From 4x4 to 2x2 patches each new position is the centre of four old ones."""
    tensors = build_encoder(MODEL, 0).vit.state_dict()
    coarse = resample(tensors, 2, 16, swapped)["pos_embed"][0]
    first = (coarse[0], coarse[3])
    model = ModelSettings(image_size=64, patch_size=16, width=48, depth=2, heads=3, predictor_width=24)
    assert model.grid == 4
    rows = torch.tensor([0.5, 2.5])
    frequencies = 10000.0 ** -(torch.arange(12) / 12)
    for code, place in zip(first, rows, strict=True):
        expected = torch.cat([(place * frequencies).sin(), (place * frequencies).cos()]).repeat(2)
        assert torch.allclose(code, expected, atol=1e-5)
