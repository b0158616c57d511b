"""Weights of timm's ViTs as a start: class token dropped, positions replaced, channels folded, LayerScale folded in."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.activations import GELU, GELUTanh
from timm.layers.attention import Attention
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.backbone import PREFIX
from chexworld_ray.models.fold import BIAS, IMAGENET, WEIGHT, PatchEmbedding, fold
from chexworld_ray.models.tensors import check_encoder, timm_file

# timm's ViTs by width; others are named with timm:NAME@FILE
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
_DROPPED = re.compile(r"(cls_token|reg_token|dist_token|mask_token|pos_embed|head\..*|head_dist\..*|fc_norm\..*)")
_KEPT = re.compile(
    r"patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)"
    r"|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)"
)
_LAYER_SCALE = re.compile(r"(blocks\.\d+\.)ls([12])\.gamma")
# parts of a block that compute what ours do; tanh's approximation of GELU differs by less than 5e-4
_PLAIN_PARTS: dict[str, tuple[type[nn.Module], ...]] = {
    "": (Block,),
    "attn": (Attention,),
    "norm1": (nn.LayerNorm, LayerNorm),
    "mlp.act": (nn.GELU, GELU, GELUTanh),
}
_SCALED_LAYER = {"1": "attn.proj", "2": "mlp.fc2"}


def read_timm(source: str, base: ModelSettings, *, fetch: bool = True) -> tuple[ModelSettings, dict[str, Tensor]]:
    """Settings and encoder tensors (one grey channel on [0, 1] pixels; no positions) of a timm ViT.

    `source`: timm:NAME (timm fetches the weights), timm:NAME@FILE, or a file of a ViT's weights, whose input is taken
    to be normalised by ImageNet's mean and std and whose heads are told by its width. Image size and predictor are
    those of `base`. Without `fetch` the weights of a bare timm:NAME are random: enough to know its sizes.

    Raises:
        UserError: no such model or file, it can't be fetched, or it is not a plain ViT.
    """
    name, _, file = source.removeprefix(PREFIX).partition("@") if source.startswith(PREFIX) else ("", "", source)
    statistics, heads = IMAGENET, None
    if name:
        model = _create(name, fetched=fetch and not file)
        _refuse_other_blocks(model, f"--init {PREFIX}{name}")
        statistics = (model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
        heads = int(model.blocks[0].attn.num_heads)
        tensors = _read(file) if file else model.state_dict()
    else:
        tensors = _read(file)
    try:
        return _converted(_plain(tensors, source), source, base, statistics, heads)
    except (ValueError, RuntimeError, IndexError) as error:  # of shapes that no ViT has
        raise UserError(f"--init {source}: not the weights of a timm ViT ({str(error)[:100]})") from None


def _converted(
    tensors: dict[str, Tensor],
    source: str,
    base: ModelSettings,
    statistics: tuple[Sequence[float], Sequence[float]],
    heads: int | None,
) -> tuple[ModelSettings, dict[str, Tensor]]:
    width, channels, patch, _ = tensors[WEIGHT].shape
    if heads is None and width not in HEADS:
        raise UserError(f"--init {source}: a width of {width} does not tell the heads; name the model: timm:NAME@FILE")
    if channels == len(statistics[0]):
        weight, bias = fold(PatchEmbedding(tensors[WEIGHT], tensors[BIAS]), *statistics)
        tensors |= {WEIGHT: weight, BIAS: bias}
    elif channels != 1:
        raise UserError(f"--init {source}: {channels} input channels; 1 or 3 can be folded into grey")
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    model = replace(
        base,
        patch_size=patch,
        image_size=base.image_size // base.patch_size * patch,
        width=width,
        depth=1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("blocks.")),
        heads=heads or HEADS[width],
        predictor_width=_multiple(base.predictor_width, heads or HEADS[width]),
        mlp_width=None if hidden == 4 * width else hidden,
    )
    check_encoder(tensors, model, f"--init {source}")
    return model, tensors


def _multiple(width: int, heads: int) -> int:
    """The smallest predictor width from `width` on that the heads divide (and sin-cos codes: 4)."""
    unit = heads * 4
    return -(-width // unit) * unit


def _create(name: str, *, fetched: bool) -> Any:
    """The model, whose configuration and blocks timm does not type."""
    try:
        model = timm.create_model(name, pretrained=fetched, num_classes=0)
    except RuntimeError as error:
        raise UserError(f"--init {PREFIX}{name}: {error}") from None
    except Exception as error:  # the hub's client has no common base for what can go wrong on the way
        raise UserError(
            f"--init {PREFIX}{name}: its weights can't be fetched ({type(error).__name__}); "
            f"with a file at hand: {PREFIX}{name}@FILE"
        ) from None
    if not isinstance(model, VisionTransformer):
        raise UserError(f"--init {PREFIX}{name}: a {type(model).__name__}, not a plain vision transformer")
    return model


def _refuse_other_blocks(model: VisionTransformer, where: str) -> None:
    """Blocks may compute something else from tensors of the same names: norms after the layers, other activations.

    Raises:
        UserError: they do; what is told.
    """
    for block in model.blocks:
        for name, plain in _PLAIN_PARTS.items():
            part = block.get_submodule(name) if type(block) is Block else block
            if type(part) not in plain:
                raise UserError(f"{where}: not a plain ViT: its blocks have a {type(part).__name__}")


def _read(file: str) -> dict[str, Tensor]:
    if not Path(file).is_file():
        raise UserError(f"--init {file}: no such run or file")
    return timm_file(file, f"--init {file}")


def _plain(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors that our encoder has; LayerScale is multiplied into the layer before it."""
    kept = {key: value.detach().float() for key, value in tensors.items() if _KEPT.fullmatch(key)}
    for key, value in tensors.items():
        if scaled := _LAYER_SCALE.fullmatch(key):
            layer = scaled.group(1) + _SCALED_LAYER[scaled.group(2)]
            if f"{layer}.weight" not in kept or f"{layer}.bias" not in kept:
                raise UserError(f"--init {source}: not a plain ViT: {key!r} scales a layer that is not there")
            kept[f"{layer}.weight"] = kept[f"{layer}.weight"] * value.float()[:, None]
            kept[f"{layer}.bias"] = kept[f"{layer}.bias"] * value.float()
        elif not (_KEPT.fullmatch(key) or _DROPPED.fullmatch(key)):
            raise UserError(f"--init {source}: not a plain ViT: it has {key!r}")
    if WEIGHT not in kept or "blocks.0.mlp.fc1.weight" not in kept:
        raise UserError(f"--init {source}: not the weights of a timm ViT (no {WEIGHT!r} or no blocks)")
    width = kept[WEIGHT].shape[0]
    for key in [key for key in kept if key.endswith("attn.qkv.weight")]:  # some ViTs have no bias there: it is zero
        kept.setdefault(key.removesuffix("weight") + "bias", torch.zeros(kept[key].shape[0]))
    kept.setdefault(BIAS, torch.zeros(width))
    kept.setdefault("norm.weight", torch.ones(width))  # models that pool before the norm have it elsewhere
    kept.setdefault("norm.bias", torch.zeros(width))
    return kept
