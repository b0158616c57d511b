"""The encoder f: timm's ViT without class token, on one grey channel, that may see only some patches.

Legend: B images, H height, W width, N patches, K kept tokens, D width.
"""

from functools import partial

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chexworld_ray.config import ModelSettings
from chexworld_ray.models.positions import grid_positions, sincos


def key_mask(valid_BK: Tensor | None) -> Tensor | None:
    """Attention mask (True: seen) that hides padding tokens as keys, Bx1x1xK."""
    return None if valid_BK is None else valid_BK[:, None, None, :]


def run_block(block: nn.Module, tokens: Tensor, mask: Tensor | None, checkpointed: bool) -> Tensor:
    """A transformer block; `checkpointed` recomputes it in the backward pass instead of keeping what it computed."""
    if checkpointed:
        return checkpoint(block, tokens, attn_mask=mask, use_reentrant=False)  # pyright: ignore[reportReturnType]
    return block(tokens, attn_mask=mask)


def suit_device(model: nn.Module, device: torch.device) -> None:
    """Fused attention kernels where they pay: on CPUs plain matrix products are faster (BENCHMARKS.md)."""
    for module in model.modules():
        if isinstance(module, Attention):
            setattr(module, "fused_attn", device.type != "cpu")  # noqa: B010  # typed as a constant there


class Encoder(nn.Module):
    """A timm VisionTransformer with fixed sin-cos positions. Its state under timm's keys is `vit.state_dict()`."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.vit = VisionTransformer(
            img_size=settings.image_size,
            patch_size=settings.patch_size,
            in_chans=1,
            num_classes=0,
            global_pool="",
            embed_dim=settings.width,
            depth=settings.depth,
            num_heads=settings.heads,
            mlp_ratio=4.0 if settings.mlp_width is None else (settings.mlp_width + 0.5) / settings.width,
            class_token=False,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        assert self.vit.pos_embed is not None
        self.vit.pos_embed.requires_grad_(False)
        places = grid_positions(settings.grid)
        if settings.compat != "none":
            places = places.flip(-1)
        self.vit.pos_embed.copy_(sincos(places, settings.width)[None])
        self.checkpointed = False

    def forward(self, images_BHW: Tensor, index_BK: Tensor | None = None, valid_BK: Tensor | None = None) -> Tensor:
        """Tokens after the final norm: BxNxD of whole images, or BxKxD of the patches at `index_BK`.

        Patches are gathered after patch embedding and position. `valid_BK` is False on padding, which no token
        attends to.
        """
        tokens = self.vit.patch_embed(images_BHW[:, None]) + self.vit.pos_embed
        if index_BK is not None:
            tokens = tokens.gather(1, index_BK[..., None].expand(-1, -1, tokens.shape[-1]))
        mask = key_mask(valid_BK)
        for block in self.vit.blocks:
            tokens = run_block(block, tokens, mask, self.checkpointed)
        return self.vit.norm(tokens)


def build_encoder(settings: ModelSettings, seed: int) -> Encoder:
    """The encoder with the random weights of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(settings)
