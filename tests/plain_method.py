"""The method once more, as plain as its formulae: what a published checkpoint computes from a batch.

Written from the formulae of WORLD_MODEL ("Numbers that a published checkpoint must reproduce"). It uses nothing of the
package, so that the package can be compared with it. All is float64: against the 1e-5 that is allowed, this side has no
rounding error.

Legend: B images, G grid side, N = G·G patches, K context and T target tokens, D encoder and P predictor width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

Weights = dict[str, Tensor]
"""Tensors of one part under their published names, without its prefix."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCK_EPS = 1e-6
TARGET_EPS = 1e-5
TABLES = ("pos_embed", "predictor_pos_embed")
"""Fixed, not trained. They are computed here, not read."""
DIRECTIONS = ((1, 1), (2, 2), (1, 2), (2, 1))
"""(context's view, target's view). The published names put the target first: `_21` predicts view 2 from view 1."""
SAME_PLACE = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
"""(Δi, Δj, ρh, ρw, flip, φ) of a view against itself, for all images."""


def expected_numbers(checkpoint: dict[str, Any], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every array of `expected.npz`, and the views and directions that the recorded files leave out."""
    heads, unified = checkpoint["args"].num_heads, checkpoint["args"].unify_embed
    encoder, target_encoder, predictor = (
        weights_of(checkpoint, part) for part in ("encoder", "target_encoder", "predictor")
    )
    trained = {"encoder": _leaves(encoder), "predictor": _leaves(predictor)}
    given = {name: torch.from_numpy(value) for name, value in batch.items()}
    contexts, targets, predictions, losses = {}, {}, {}, {}
    for view in (1, 2):
        contexts[view] = encode(encoder, heads, given[f"image_aug{view}"], given[f"masks_enc{view}"])
        targets[view] = encode(target_encoder, heads, given[f"image{view}"])
    grid = round(targets[1].shape[1] ** 0.5)
    table = position_table(grid, predictor["mask_token"].shape[-1], column_first=not unified)
    for context, target in DIRECTIONS:
        name = f"{target}{context}"
        asked_BT, action_BA = given[f"masks_pred{target}"], given[f"aug_params{context}"].double()
        relative = SAME_PLACE if context == target else _six(given[f"rel_pos_{name}"].double())
        queries = query_tokens(predictor, grid, asked_BT, relative, action_BA)
        places = table[given[f"masks_enc{context}"]]
        predictions[name] = predict(predictor, heads, contexts[context], places, queries)
        wanted = _pick(standardise(targets[target], TARGET_EPS), asked_BT)
        losses[name] = (predictions[name] - wanted).square().mean()
    intra, extra = (losses["11"] + losses["22"]) / 2, (losses["21"] + losses["12"]) / 2
    numbers = {"loss_intra": intra, "loss_extra": extra, "loss": (intra + extra) / 2}
    numbers["loss"].backward()
    numbers |= {f"grad_norm_{part}": _gradient_norm(leaves) for part, leaves in trained.items()}
    numbers |= {f"target_features_image{view}": tokens for view, tokens in targets.items()}
    numbers |= {f"context_features_image_aug{view}": tokens for view, tokens in contexts.items()}
    numbers |= {f"prediction_{name}": tokens for name, tokens in predictions.items()}
    return {name: value.detach().numpy() for name, value in numbers.items()}


def weights_of(checkpoint: dict[str, Any], part: str) -> Weights:
    """The tensors of the encoder, target_encoder or predictor, float64."""
    prefix = f"{part}."
    return {
        key.removeprefix(prefix): value.double() for key, value in checkpoint["model"].items() if key.startswith(prefix)
    }


def encode(encoder: Weights, heads: int, images_B1HW: Tensor, index_BK: Tensor | None = None) -> Tensor:
    """f: tokens after the final norm, of all patches or of those at `index_BK`."""
    kernel_D3PP = encoder["patch_embed.proj.weight"]
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    colour = (images_B1HW.double().expand(-1, 3, -1, -1) - mean) / std
    patch, grid = kernel_D3PP.shape[-1], images_B1HW.shape[-1] // kernel_D3PP.shape[-1]
    patches = colour.reshape(-1, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    tokens = patches @ kernel_D3PP.flatten(1).T + encoder["patch_embed.proj.bias"]
    tokens = tokens + position_table(grid, tokens.shape[-1], column_first=True)
    if index_BK is not None:
        tokens = _pick(tokens, index_BK)
    return norm(encoder, "norm", blocks(encoder, "blocks", heads, tokens))


def predict(predictor: Weights, heads: int, context_BKD: Tensor, places_BKP: Tensor, queries_BTP: Tensor) -> Tensor:
    """g: context tokens with their positions, and queries, through the blocks; the queries' outputs in width D."""
    context = linear(predictor, "predictor_embed", context_BKD) + places_BKP
    tokens = blocks(predictor, "predictor_blocks", heads, torch.cat([context, queries_BTP], dim=1))
    return linear(predictor, "predictor_proj", norm(predictor, "predictor_norm", tokens)[:, context.shape[1] :])


def query_tokens(predictor: Weights, grid: int, index_BT: Tensor, relative_B6: Tensor, action_BA: Tensor) -> Tensor:
    """π([mask token + code ; action]). The code tells where a patch of the target's view lies in the context's grid."""
    u, v = index_BT // grid, index_BT % grid
    delta_i, delta_j, rho_h, rho_w, flip, phi = relative_B6[:, None].unbind(-1)
    row = rho_h * (u + 0.5) + grid * delta_i - 0.5
    straight = rho_w * (v + 0.5) + grid * delta_j - 0.5
    mirrored = grid * phi - rho_w * (v + 0.5) - 0.5
    col = torch.where(flip == 1, mirrored, straight)
    width = predictor["mask_token"].shape[-1]
    code = torch.cat([sincos(row, width), sincos(col, width)], dim=-1)
    if "predictor_pos_mlp.weight" in predictor:
        size = torch.cat([sincos(10 * rho_h.log(), width), sincos(10 * rho_w.log(), width)], dim=-1)
        code = linear(predictor, "predictor_pos_mlp", torch.cat([code, size.expand_as(code)], dim=-1))
    query = predictor["mask_token"] + code
    hidden = torch.cat([query, action_BA[:, None].expand(-1, query.shape[1], -1)], dim=-1)
    for layer in ("policy_net.0", "policy_net.2"):
        hidden = linear(predictor, layer, hidden).clamp(min=0)
    return linear(predictor, "policy_net.4", hidden)


def sincos(x: Tensor, width: int) -> Tensor:
    """s(x) = [sin xω, cos xω], ω_c = 10000^(−c/(width/4)), c < width/4: half of a code that is `width` wide."""
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = x[..., None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def position_table(grid: int, width: int, column_first: bool) -> Tensor:
    """[s(col), s(row)] or [s(row), s(col)] of each patch, Nxwidth."""
    patch = torch.arange(grid * grid)
    row, col = sincos(patch // grid, width), sincos(patch % grid, width)
    return torch.cat([col, row] if column_first else [row, col], dim=-1)


def blocks(weights: Weights, name: str, heads: int, tokens: Tensor) -> Tensor:
    """All pre-norm transformer blocks `name`.0, `name`.1, …"""
    number = 0
    while (block := f"{name}.{number}") + ".norm1.weight" in weights:
        tokens = tokens + attention(weights, f"{block}.attn", heads, norm(weights, f"{block}.norm1", tokens))
        hidden = linear(weights, f"{block}.mlp.fc1", norm(weights, f"{block}.norm2", tokens))
        gelu = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        tokens = tokens + linear(weights, f"{block}.mlp.fc2", gelu)
        number += 1
    return tokens


def attention(weights: Weights, name: str, heads: int, tokens_BKD: Tensor) -> Tensor:
    """Softmax attention of every token to every token."""
    size = tokens_BKD.shape[-1] // heads
    qkv = linear(weights, f"{name}.qkv", tokens_BKD).unflatten(-1, (3, heads, size))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each B x heads x K x size
    similarity = (query @ key.mT / size**0.5).exp()
    mixed = similarity / similarity.sum(dim=-1, keepdim=True) @ value
    return linear(weights, f"{name}.proj", mixed.transpose(1, 2).flatten(2))


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return standardise(x, BLOCK_EPS) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def standardise(x: Tensor, eps: float) -> Tensor:
    """LayerNorm without affine."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()


def _six(relative_BN: Tensor) -> Tensor:
    """(Δi, Δj, ρh, ρw, flip, φ). Crops of one size have only (Δi, Δj, flip, φ): ρ = 1."""
    if relative_BN.shape[1] == 6:
        return relative_BN
    return torch.cat([relative_BN[:, :2], torch.ones_like(relative_BN[:, :2]), relative_BN[:, 2:]], dim=1)


def _pick(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    return torch.stack([tokens[index] for tokens, index in zip(tokens_BND, index_BK, strict=True)])


def _leaves(weights: Weights) -> list[Tensor]:
    return [value.requires_grad_() for name, value in weights.items() if name not in TABLES]


def _gradient_norm(leaves: list[Tensor]) -> Tensor:
    """L2 norm over all trainable parameters of one part."""
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert len(gradients) == len(leaves), "a parameter that has no part in the loss"
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()
