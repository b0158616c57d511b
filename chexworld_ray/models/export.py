"""An encoder for others to use: under timm's keys, as a timm model folder, or as ONNX. Checked after it is written.

Three channels take grey images normalised by ImageNet's mean and std in each channel, as timm's tools make them; one
channel takes grey images on [0, 1] normalised by the run's own mean and std.
"""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.fold import BIAS, IMAGENET, WEIGHT, PatchEmbedding, rescale, unfold
from chexworld_ray.models.weights import EncoderInfo, encoder_bytes

Format = Literal["safetensors", "timm", "onnx", "hf"]
FORMATS: tuple[str, ...] = get_args(Format)
ARCHITECTURE = "vit_base_patch16_224"  # any of timm's ViTs: all that differs is in the arguments
NAMES = {
    "safetensors": "encoder.safetensors",
    "timm": "encoder_timm.safetensors",
    "onnx": "encoder.onnx",
    "hf": "encoder_hf",
}
LIMIT = 1e-5


@dataclass(frozen=True)
class Exported:
    """What was written (a file or a folder), the line to type, and how far its features are from ours."""

    path: Path
    line: str
    relative_error: float


def export(encoder: Encoder, info: EncoderInfo, folder: Path, kind: Format, channels: int) -> Exported:
    """Write an encoder into a local folder, read it back with the library that it is for, and compare features.

    Raises:
        UserError: a package for the format is missing, or what was read back differs by more than 1e-5.
    """
    path = folder / NAMES[kind]
    writers = {"safetensors": _safetensors, "timm": _timm, "onnx": _onnx, "hf": _hf}
    line, read_back = writers[kind](encoder, info, path, channels)
    generator = torch.Generator().manual_seed(0)
    grey_BHW = torch.rand(2, info.model.image_size, info.model.image_size, generator=generator)
    with torch.no_grad():
        wanted = encoder((grey_BHW - info.mean) / info.std)
        got = read_back(network_input(grey_BHW, info, channels))
    error = float((got - wanted).abs().max() / wanted.abs().max())
    if not error <= LIMIT:
        raise UserError(f"{kind}: the exported encoder's features differ from the run's by {error:.1e}; not exported")
    return Exported(path, line, error)


def network_input(grey_BHW: Tensor, info: EncoderInfo, channels: int) -> Tensor:
    """BxCxHxW input of an exported encoder from grey images on [0, 1]."""
    if channels == 1:
        return ((grey_BHW - info.mean) / info.std)[:, None]
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    return (grey_BHW[:, None] - mean) / std


def timm_arguments(model: ModelSettings, channels: int) -> dict[str, Any]:
    """Arguments of `timm.create_model` beside the architecture's name."""
    arguments: dict[str, Any] = {
        "img_size": model.image_size,
        "patch_size": model.patch_size,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "in_chans": channels,
        "class_token": False,
        "global_pool": "",
        "num_classes": 0,
    }
    if model.mlp_width is not None:
        arguments["mlp_ratio"] = (model.mlp_width + 0.5) / model.width  # timm rounds down
    return arguments


def timm_tensors(encoder: Encoder, info: EncoderInfo, channels: int) -> dict[str, Tensor]:
    """State under timm's keys for one or three input channels."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.vit.state_dict().items()}
    if channels == 3:
        unit = rescale(PatchEmbedding(tensors[WEIGHT], tensors[BIAS]), (info.mean, info.std), (0.0, 1.0))
        colour = unfold(unit, *IMAGENET)
        tensors |= {WEIGHT: colour.weight.contiguous(), BIAS: colour.bias}
    return tensors


def _input_words(info: EncoderInfo, channels: int) -> str:
    if channels == 1:
        return f"input: Bx1xHxW, (grey on [0, 1] - {info.mean:.6f}) / {info.std:.6f}"
    return "input: Bx3xHxW, grey repeated, normalised by ImageNet's mean and std"


def _call(info: EncoderInfo, channels: int) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in timm_arguments(info.model, channels).items())
    return f'timm.create_model("{ARCHITECTURE}", {arguments})'


def _safetensors(encoder: Encoder, info: EncoderInfo, path: Path, channels: int) -> tuple[str, Any]:
    """One channel: our own file, which `load_encoder` reads too. Three: as `timm`."""
    if channels != 1:
        return _timm(encoder, info, path, channels)
    pixels = (info.mean, info.std)
    path.write_bytes(encoder_bytes(timm_tensors(encoder, info, 1), info.model, pixels, info.images_seen))
    return _timm_line(info, channels), _timm_model(info, channels, load_file(path))


def _timm_line(info: EncoderInfo, channels: int) -> str:
    return (
        f"import timm, safetensors.torch; model = {_call(info, channels)}.eval(); "
        f'model.load_state_dict(safetensors.torch.load_file("{{path}}"))  # {_input_words(info, channels)}'
    )


def _timm_model(info: EncoderInfo, channels: int, tensors: dict[str, Tensor]) -> nn.Module:
    model = plain_vit(info.model, channels).eval()
    model.load_state_dict(tensors)
    return model


def plain_vit(model: ModelSettings, channels: int) -> nn.Module:
    """timm's own ViT of these sizes with random weights: no class token, all tokens out."""
    return timm.create_model(ARCHITECTURE, **timm_arguments(model, channels))


def _timm(encoder: Encoder, info: EncoderInfo, path: Path, channels: int) -> tuple[str, Any]:
    save_file(timm_tensors(encoder, info, channels), path)
    return _timm_line(info, channels), _timm_model(info, channels, load_file(path))


def _hf(encoder: Encoder, info: EncoderInfo, path: Path, channels: int) -> tuple[str, Any]:
    arguments = timm_arguments(info.model, channels)
    model = _timm_model(info, channels, timm_tensors(encoder, info, channels))
    mean, std = IMAGENET if channels == 3 else ((info.mean,), (info.std,))
    size = (channels, info.model.image_size, info.model.image_size)
    config = {"mean": mean, "std": std, "input_size": size, "fixed_input_size": True, "crop_pct": 1.0}
    save_for_hf(
        model,
        str(path),
        model_config={"architecture": ARCHITECTURE, "num_classes": 0, "global_pool": "", "pretrained_cfg": config},
        model_args=arguments,
        safe_serialization=True,
    )
    read = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    line = (
        'import timm; model = timm.create_model("local-dir:{path}", pretrained=True).eval()  '
        f"# {_input_words(info, channels)}; after an upload to the Hub: hf-hub:OWNER/NAME"
    )
    return line, read


def _onnx(encoder: Encoder, info: EncoderInfo, path: Path, channels: int) -> tuple[str, Any]:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'--format onnx needs {", ".join(missing)}: pip install "chexworld_ray[onnx]"')
    import onnxruntime

    model = _timm_model(info, channels, timm_tensors(encoder, info, channels))
    images = torch.zeros(2, channels, info.model.image_size, info.model.image_size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        model,
        (images,),
        str(path),
        input_names=["images"],
        output_names=["tokens"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    line = (
        'import onnxruntime; tokens = onnxruntime.InferenceSession("{path}").run(None, {"images": images})[0]'
        f"  # {_input_words(info, channels)}, float32"
    )
    return line, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def default_channels(kind: Format) -> int:
    """One for our own file, three for the formats that others' tools read."""
    return 1 if kind == "safetensors" else 3
