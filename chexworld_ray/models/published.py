"""Checkpoints in the published format of CheXWorld: read without running what they hold, converted to our names.

A file is a dict with `model` (state dict: `encoder.`, `target_encoder.`, `predictor.`), `epoch`, and an
argparse.Namespace in `args` (WORLD_MODEL, "Numbers that a published checkpoint must reproduce").
"""

import argparse
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.fold import BIAS, IMAGENET, POSITIONS, WEIGHT, PatchEmbedding, fold
from chexworld_ray.models.positions import grid_positions, sincos
from chexworld_ray.models.tensors import check_encoder, check_predictor, plain, read_pickled

HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16, "giant": 16}
_MODEL_NAME = re.compile(r"vit_(tiny|small|base|large|huge|giant)(_|$)")
_PREDICTOR_NAMES = {
    "mask_token": "mask_token",
    "predictor_embed": "embed",
    "predictor_blocks": "blocks",
    "predictor_norm": "norm",
    "predictor_proj": "project",
    "policy_net": "action_network.layers",
    "predictor_pos_mlp": "scale_network",
}
_TABLE = "predictor_pos_embed"
_FIRST_ACTION_LAYER = "action_network.layers.0.weight"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Published:
    """A published checkpoint in our names, for one grey channel on [0, 1] pixels."""

    model: ModelSettings
    encoder: dict[str, Tensor]
    target: dict[str, Tensor]
    predictor: dict[str, Tensor]
    epoch: int
    args: dict[str, Any]


def read_published(data: bytes, where: str, heads: int | None) -> Published:
    """The checkpoint in `data`; `heads` is needed only where the file does not tell.

    Raises:
        UserError: not such a file, it holds more than tensors and plain values, or its sizes do not fit together.
    """
    record = _load(data, where)
    args = record.get("args")
    told = vars(args) if isinstance(args, argparse.Namespace) else {}
    tensors: dict[str, Tensor] = {key: value.float() for key, value in record["model"].items()}
    encoder, target, predictor = (
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in ("encoder.", "target_encoder.", "predictor.")
    )
    try:
        model = _settings(encoder, predictor, _heads(told, heads, where), bool(told.get("unify_embed", False)))
        _check_tables(encoder, predictor, model, where)
        epoch = record.get("epoch")
        parts = _fold(encoder), _fold(target), _rename(predictor)
        for part in parts[:2]:
            check_encoder(part, model, where)
        check_predictor(parts[2], model, where)
        return Published(model, *parts, epoch if isinstance(epoch, int) else 0, told)
    except KeyError as error:
        raise UserError(f"{where}: not a published CheXWorld checkpoint: no tensor {error}") from None
    except (ValueError, RuntimeError, TypeError, IndexError, ArithmeticError) as error:
        raise UserError(f"{where}: not a published CheXWorld checkpoint: {str(error)[:200]}") from None


def _load(data: bytes, where: str) -> dict[str, Any]:
    record = read_pickled(data, where)
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise UserError(
            f"{where}: not a published CheXWorld checkpoint: a dict with the state dict `model` is expected"
        )
    return record | {"model": plain(record["model"], where)}


def _heads(told: dict[str, Any], asked: int | None, where: str) -> int:
    name = _MODEL_NAME.match(str(told.get("model", "")))
    known = told.get("num_heads") or (HEADS[name.group(1)] if name else None)
    if known is None and asked is None:
        raise UserError(f"{where}: the file does not tell the number of attention heads; name it with --heads")
    if known is not None and asked is not None and int(known) != asked:
        raise UserError(f"{where}: the file says {known} attention heads, --heads says {asked}")
    return int(known if known is not None else asked or 0)


def _settings(encoder: dict[str, Tensor], predictor: dict[str, Tensor], heads: int, unified: bool) -> ModelSettings:
    width, _, patch, _ = encoder[WEIGHT].shape
    grid = round(encoder[POSITIONS].shape[1] ** 0.5)
    if grid * grid != encoder[POSITIONS].shape[1]:
        raise ValueError(f"{encoder[POSITIONS].shape[1]} positions are not a square grid")
    hidden = encoder["blocks.0.mlp.fc1.weight"].shape[0]
    predictor_width = predictor["predictor_embed.weight"].shape[0]
    actions = predictor["policy_net.0.weight"].shape[1] - predictor_width
    if actions != 5:
        raise ValueError(f"its actions have {actions} numbers; ours have 5 (brightness, contrast, gamma, blur, noise)")
    return ModelSettings(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        depth=_depth(encoder, "blocks."),
        heads=heads,
        predictor_width=predictor_width,
        predictor_depth=_depth(predictor, "predictor_blocks."),
        mlp_width=None if hidden == 4 * width else hidden,
        compat="chexworld_unified" if unified else "chexworld",
        scale_code="predictor_pos_mlp.weight" in predictor,
    )


def _depth(tensors: dict[str, Tensor], prefix: str) -> int:
    return 1 + max(
        (int(key.removeprefix(prefix).split(".")[0]) for key in tensors if key.startswith(prefix)), default=-1
    )


def _check_tables(encoder: dict[str, Tensor], predictor: dict[str, Tensor], model: ModelSettings, where: str) -> None:
    """The fixed tables must be the sin-cos codes that we compute: [s(col), s(row)], or [s(row), s(col)] if unified."""
    places = grid_positions(model.grid)
    swapped = places.flip(-1)
    for name, table, expected in (
        (POSITIONS, encoder[POSITIONS], swapped),
        (_TABLE, predictor[_TABLE], swapped if model.compat == "chexworld" else places),
    ):
        error = (table[0] - sincos(expected, table.shape[-1])).abs().max()
        if float(error) > TOLERANCE:
            raise UserError(f"{where}: {name} is not the published sin-cos table (off by {float(error):.1e})")


def _fold(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    weight, bias = fold(PatchEmbedding(tensors[WEIGHT], tensors[BIAS]), *IMAGENET)
    return tensors | {WEIGHT: weight, BIAS: bias}


def _rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in tensors.items():
        if key != _TABLE:
            name, dot, rest = key.partition(".")
            renamed[_PREDICTOR_NAMES[name] + dot + rest] = value
    first = renamed[_FIRST_ACTION_LAYER]
    # it was never told of mirrored views: a column of zeros listens to that number and does nothing yet
    renamed[_FIRST_ACTION_LAYER] = torch.cat([first, torch.zeros_like(first[:, :1])], dim=1)
    return renamed
