"""Files in the published format with random content: a checkpoint, a batch, and what the method computes from them."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_method import expected_numbers, position_table

from chexworld_ray.config import ModelSettings

Checkpoint = dict[str, Any]
BATCH = 3
ACTION_SIZE = 5
NORM_WEIGHTS = ("norm.weight", "norm1.weight", "norm2.weight")
WEIGHT_STD = 0.05
"""Around 0, or 1 for the weights of norms. No bias is 0, so that each counts."""
CONTEXT_TOKENS, TARGET_TOKENS = (9, 7), (12, 15)
"""Of view 1 and of view 2: not the same, so that the package has to pad one of them."""


def random_checkpoint(sizes: ModelSettings, seed: int = 0, **args: Any) -> Checkpoint:
    """Encoder, target encoder and predictor, each with weights of its own. `args`: what its Namespace tells further.

    Plain random weights would hide some faults; three parts are set so that those show.
    """
    generator = np.random.default_rng(seed)
    unified = sizes.compat == "chexworld_unified"
    model = {}
    for name, shape in _shapes(sizes):
        values = generator.normal(1.0 if name.endswith(NORM_WEIGHTS) else 0.0, WEIGHT_STD, shape)
        model[name] = torch.from_numpy(values.astype(np.float32))
    model["predictor.predictor_pos_embed"] = _table(sizes.grid, sizes.predictor_width, column_first=not unified)
    table = _table(sizes.grid, sizes.width, column_first=True)
    for part in ("encoder.", "target_encoder."):
        model[part + "pos_embed"] = table
        # a wrong eps of a norm shows on a token that hardly varies: here that of the first patch, without its position
        model[part + "patch_embed.proj.weight"] *= 0.05
        model[part + "patch_embed.proj.bias"] -= table[0, 0]
    # and a wrong eps of the target's second LayerNorm, where the final norm leaves little variance
    model["target_encoder.norm.weight"] *= 0.1
    for layer in ("policy_net.0", "policy_net.2"):  # the action's columns must weigh in the predictor's gradient norm
        model[f"predictor.{layer}.weight"] *= 4.0
    return {"model": model, "epoch": 7, "args": argparse.Namespace(unify_embed=unified, **args)}


def random_batch(sizes: ModelSettings, seed: int = 1) -> dict[str, np.ndarray]:
    """Arrays of `batch.npz`: views of noise, and relative positions with and without a flip, in and out of the grid."""
    generator = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    for view in (1, 2):
        for name in ("image", "image_aug"):
            pixels = generator.random((BATCH, 1, sizes.image_size, sizes.image_size))
            batch[f"{name}{view}"] = pixels.astype(np.float32)
        batch[f"aug_params{view}"] = generator.random((BATCH, ACTION_SIZE)).astype(np.float32)
        context, target = CONTEXT_TOKENS[view - 1], TARGET_TOKENS[view - 1]
        patches = np.stack([generator.permutation(sizes.grid**2) for _ in range(BATCH)])
        batch[f"masks_enc{view}"] = np.sort(patches[:, :context], axis=1)
        batch[f"masks_pred{view}"] = np.sort(patches[:, context : context + target], axis=1)
    for name in ("rel_pos_21", "rel_pos_12"):
        delta = generator.uniform(-1.0, 1.0, (BATCH, 2))
        rho = generator.uniform(0.6, 1.6, (BATCH, 2 if sizes.scale_code else 0))
        flip = 1 - np.arange(BATCH)[:, None] % 2
        phi = generator.uniform(0.0, 2.0, (BATCH, 1))
        batch[name] = np.concatenate([delta, rho, flip, phi], axis=1).astype(np.float32)
    return batch


def write_parity_folder(folder: Path, sizes: ModelSettings) -> Path:
    """`checkpoint.pth.tar`, `batch.npz` and `expected.npz`, as the folders of ../shared/reference_parity hold them."""
    checkpoint, batch = random_checkpoint(sizes, num_heads=sizes.heads), random_batch(sizes)
    torch.save(checkpoint, folder / "checkpoint.pth.tar")
    np.savez(folder / "batch.npz", **batch)
    expected = expected_numbers(checkpoint, batch)
    np.savez(folder / "expected.npz", **{name: value.astype(np.float32) for name, value in expected.items()})
    return folder


def read_checkpoint(file: Path) -> Checkpoint:
    """Without running what it holds."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(file, weights_only=True)


def _table(grid: int, width: int, column_first: bool) -> torch.Tensor:
    return position_table(grid, width, column_first)[None].float()


def _shapes(sizes: ModelSettings) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every trained tensor."""
    width, narrow = sizes.width, sizes.predictor_width
    for part in ("encoder.", "target_encoder."):
        yield f"{part}patch_embed.proj.weight", (width, 3, sizes.patch_size, sizes.patch_size)
        yield f"{part}patch_embed.proj.bias", (width,)
        yield from _blocks(f"{part}blocks", sizes.depth, width, sizes.mlp_width or 4 * width)
        yield from _norm(f"{part}norm", width)
    yield "predictor.mask_token", (1, 1, narrow)
    yield from _linear("predictor.predictor_embed", width, narrow)
    yield from _blocks("predictor.predictor_blocks", sizes.predictor_depth, narrow, 4 * narrow)
    yield from _norm("predictor.predictor_norm", narrow)
    yield from _linear("predictor.predictor_proj", narrow, width)
    for number, size in ((0, narrow + ACTION_SIZE), (2, narrow), (4, narrow)):
        yield from _linear(f"predictor.policy_net.{number}", size, narrow)
    if sizes.scale_code:
        yield from _linear("predictor.predictor_pos_mlp", 2 * narrow, narrow)


def _blocks(name: str, depth: int, width: int, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for number in range(depth):
        block = f"{name}.{number}"
        yield from _norm(f"{block}.norm1", width)
        yield from _linear(f"{block}.attn.qkv", width, 3 * width)
        yield from _linear(f"{block}.attn.proj", width, width)
        yield from _norm(f"{block}.norm2", width)
        yield from _linear(f"{block}.mlp.fc1", width, hidden)
        yield from _linear(f"{block}.mlp.fc2", hidden, width)


def _linear(name: str, size: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, size)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
