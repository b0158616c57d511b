"""Encoder files: safetensors under timm's keys, with a header that makes the file enough by itself."""

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from chexworld_ray.config import ModelSettings, from_dict
from chexworld_ray.errors import UserError
from chexworld_ray.models.encoder import Encoder, build_encoder
from chexworld_ray.models.fold import POSITIONS, resample
from chexworld_ray.models.tensors import check_encoder, read_safetensors, safetensors_metadata

HEADER_KEY = "chexworld_ray"
BATCH = 64


@dataclass(frozen=True)
class EncoderInfo:
    """What an encoder file says of itself. Pixels on [0, 1] are normalised by `mean` and `std` before the encoder."""

    model: ModelSettings
    mean: float
    std: float
    images_seen: int


def encoder_bytes(
    tensors: dict[str, Tensor], model: ModelSettings, pixels: tuple[float, float], images_seen: int
) -> bytes:
    """The file of an encoder: its tensors under timm's keys, and what is needed to use them."""
    header = {"model": asdict(model), "mean": pixels[0], "std": pixels[1], "images_seen": images_seen}
    return save(tensors, metadata={HEADER_KEY: json.dumps(header)})


def untrained_encoder_bytes(model: ModelSettings, seed: int, pixels: tuple[float, float]) -> bytes:
    """The file of an encoder with the random weights of `seed`."""
    return encoder_bytes(build_encoder(model, seed).vit.state_dict(), model, pixels, 0)


def read_encoder(data: bytes, where: str) -> tuple[Encoder, EncoderInfo]:
    """An encoder (eval mode, no gradient) from the bytes of its file.

    Raises:
        UserError: not an encoder file of ours; `where` is named.
    """
    info = _info(data, where)
    tensors = read_safetensors(data, where)
    check_encoder(tensors, info.model, where)
    if POSITIONS not in tensors:
        raise UserError(f"{where}: no tensor {POSITIONS!r}")
    encoder = Encoder(info.model)
    encoder.vit.load_state_dict(tensors)
    return encoder.requires_grad_(False).eval(), info


def _info(data: bytes, where: str) -> EncoderInfo:
    try:
        header = _header(data)
        mean, std, seen = float(header["mean"]), float(header["std"]), int(header["images_seen"])
        record = header["model"]
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{where}: not an encoder file of chexworld_ray ({type(error).__name__})") from None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0.0 <= seen):
        raise UserError(f"{where}: mean {mean:g}, std {std:g}, {seen} images seen: not what an encoder says of itself")
    return EncoderInfo(from_dict(ModelSettings, record, where), mean, std, seen)


def is_encoder_file(data: bytes) -> bool:
    """Whether a file says of itself that it is an encoder of ours."""
    try:
        _header(data)
    except (KeyError, ValueError, TypeError, RecursionError):
        return False
    return True


def _header(data: bytes) -> dict[str, Any]:
    return json.loads(safetensors_metadata(data)[HEADER_KEY])


def resampled(encoder: Encoder, info: EncoderInfo, image_size: int, patch_size: int) -> tuple[Encoder, EncoderInfo]:
    """The encoder for images and patches of other sides (pixels), and what it says of itself.

    Raises:
        UserError: the image's side is not a multiple of the patch's.
    """
    if (image_size, patch_size) == (info.model.image_size, info.model.patch_size):
        return encoder, info
    model = replace(info.model, image_size=image_size, patch_size=patch_size)
    changed = Encoder(model)
    tensors = resample(encoder.vit.state_dict(), model.grid, patch_size, swapped=model.compat != "none")
    changed.vit.load_state_dict(tensors)
    return changed.requires_grad_(False).eval(), replace(info, model=model)


@torch.inference_mode()
def pooled_features(encoder: Encoder, info: EncoderInfo, views_NSS: np.ndarray, device: torch.device) -> np.ndarray:
    """Mean over tokens after the final norm, NxD float32, of uint8 grey views."""
    parts = [
        encoder(normalise(torch.from_numpy(views_NSS[start : start + BATCH]).to(device), info)).mean(dim=1).cpu()
        for start in range(0, len(views_NSS), BATCH)
    ]
    return torch.cat(parts).numpy()


def normalise(crops_BHW: Tensor, info: EncoderInfo) -> Tensor:
    """uint8 grey views as the encoder wants them."""
    return (crops_BHW.to(torch.float32) / 255.0 - info.mean) / info.std
