"""What an evaluation sees of an encoder: uint8 grey views in, a grid of tokens out; ours and timm's behind one face.

Legend: B images, S side of a view, N tokens, D width.
"""

import json
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import save
from timm.layers.drop import DropPath
from timm.models._helpers import remap_state_dict
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn

from chexworld_ray.errors import UserError
from chexworld_ray.models.positions import grid_positions
from chexworld_ray.models.predictor import Predictor, QueryTensors
from chexworld_ray.models.tensors import check_predictor, read_safetensors, safetensors_metadata, timm_file
from chexworld_ray.models.weights import is_encoder_file, normalise, read_encoder, resampled
from chexworld_ray.views.actions import IDENTITY

VERSION = 1  # raise it where a file and a view give other tokens than before, by any module of this room
PREFIX = "timm:"
LARGEST_SIDE = 4096  # pixels of a view
HEADER_KEY = "chexworld_ray_timm"


class Size(NamedTuple):
    """Sides of a view and of a patch (pixels); None: as the encoder was trained. The patch's is for ours only."""

    image: int | None = None
    patch: int | None = None


AS_TRAINED = Size()


class Backbone(nn.Module):
    """`forward` takes uint8 grey views BxSxS and gives tokens BxNxD, row by row of a square grid."""

    def __init__(self, net: nn.Module, image_size: int, width: int) -> None:
        """`net`: a timm model, whose parameters are grouped by depth for layer decay."""
        super().__init__()
        self.net, self.image_size, self.width = net, image_size, width

    def groups(self, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
        """Parameter groups; a layer's rate is `layer_decay` times that of the layer after it (BEiT)."""
        found = param_groups_layer_decay(self.net, weight_decay, layer_decay=layer_decay)
        return [
            {"params": group["params"], "lr": lr * group["lr_scale"], "weight_decay": group["weight_decay"]}
            for group in found
        ]


class _Ours(Backbone):
    """The encoder of a run."""

    def __init__(self, data: bytes, where: str, size: Size, drop_path: float) -> None:
        encoder, info = read_encoder(data, where)
        patch = size.patch or info.model.patch_size
        encoder, info = resampled(encoder, info, size.image or info.model.image_size, patch)
        super().__init__(encoder.vit, info.model.image_size, info.model.width)
        self._encoder, self.info = encoder, info
        for number, block in enumerate(encoder.vit.blocks):
            rate = drop_path * number / max(1, info.model.depth - 1)
            if rate > 0:
                block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)

    def forward(self, views_BSS: Tensor) -> Tensor:
        """Tokens after the final norm."""
        return self._encoder(normalise(views_BSS, self.info))


class _Timm(Backbone):
    """Any of timm's models, on three equal channels normalised as its weights want them."""

    def __init__(self, data: bytes, where: str, size: Size, drop_path: float) -> None:
        header = _header(data, where)
        side = size.image or header["image_size"]
        net = create(header["name"], drop_path)
        net.load_state_dict(read_safetensors(data, where))
        if side != header["image_size"] and hasattr(net, "set_input_size"):  # positions are resampled
            net.set_input_size(img_size=(side, side))
        super().__init__(net, side, net.num_features)
        self._mean, self._std = (nn.Buffer(torch.tensor(header[name]).view(1, -1, 1, 1)) for name in ("mean", "std"))

    def forward(self, views_BSS: Tensor) -> Tensor:
        """Last features, as tokens; class and register tokens are left out."""
        pixels = views_BSS[:, None].to(torch.float32).expand(-1, 3, -1, -1) / 255.0
        found = self.net.forward_features((pixels - self._mean) / self._std)  # pyright: ignore[reportCallIssue]
        if found.ndim == 3:
            return found[:, getattr(self.net, "num_prefix_tokens", 0) :]
        return found.flatten(2).transpose(1, 2) if found.shape[1] == self.width else found.flatten(1, 2)


class _WithPredictor(Backbone):
    """The encoder of a run and its predictor, which predicts every patch of the view that it sees (IWM's probe)."""

    def __init__(self, ours: _Ours, data: bytes) -> None:
        super().__init__(ours.net, ours.image_size, ours.width)
        tensors = read_safetensors(data, "predictor")
        check_predictor(tensors, ours.info.model, "predictor")
        self._ours, self._predictor = ours, Predictor(ours.info.model)
        self._predictor.load_state_dict(tensors)

    def forward(self, views_BSS: Tensor) -> Tensor:
        """Predicted tokens."""
        tokens_BND = self._ours(views_BSS)
        rows = len(tokens_BND)
        places = grid_positions(self._ours.info.model.grid, tokens_BND.device).expand(rows, -1, -1)
        seen = torch.ones(places.shape[:2], dtype=torch.bool, device=tokens_BND.device)
        told = torch.tensor((*IDENTITY, 0.0), device=tokens_BND.device).expand(rows, -1)
        asked = QueryTensors(places, seen, torch.ones(rows, 2, device=tokens_BND.device), told)
        return self._predictor(tokens_BND, places, seen, asked)

    def groups(self, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
        """The predictor's layers stand above all of the encoder's."""
        above = {"params": list(self._predictor.parameters()), "lr": lr, "weight_decay": weight_decay}
        return [*super().groups(lr, weight_decay, layer_decay), above]


def create(name: str, drop_path: float = 0.0) -> Any:
    """A timm model without head, with random weights.

    Raises:
        UserError: timm has no such model.
    """
    options: dict[str, Any] = {"num_classes": 0} | ({"drop_path_rate": drop_path} if drop_path > 0 else {})
    try:
        return timm.create_model(name, **options)
    except RuntimeError as error:
        raise UserError(f"--encoder {PREFIX}{name}: {error}") from None


def timm_bytes(source: str) -> bytes:
    """The file of a foreign encoder, from timm:NAME (timm fetches the weights) or timm:NAME@FILE.

    A file whose tensors have other names is taken in order, where every shape agrees.

    Raises:
        UserError: not such a name, no such model or file, it can't be fetched, or its weights are another model's.
    """
    if not source.startswith(PREFIX):
        raise UserError(f"--encoder {source}: timm:NAME or timm:NAME@FILE, please; runs are named with --run")
    name, _, file = source.removeprefix(PREFIX).partition("@")
    net = create(name)
    cfg = net.pretrained_cfg
    if file:
        try:
            net.load_state_dict(_fitting(file, net, source))
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"--encoder {source}: {file} has the weights of another model ({said})") from None
    else:
        try:
            net = timm.create_model(name, pretrained=True, num_classes=0)
        except Exception as error:  # the hub's client has no common base for what can go wrong on the way
            raise UserError(
                f"--encoder {source}: its weights can't be fetched ({type(error).__name__}); "
                f"with a file at hand: {source}@FILE"
            ) from None
    header = {
        "name": _architecture(name, net, source),
        "image_size": cfg["input_size"][-1],
        "mean": list(cfg["mean"]),
        "std": list(cfg["std"]),
    }
    tensors = {key: value.contiguous() for key, value in net.state_dict().items()}
    return save(tensors, metadata={HEADER_KEY: json.dumps(header)})


def _architecture(name: str, net: nn.Module, source: str) -> str:
    """A name by which timm makes the same model again without asking a hub or a folder."""
    if timm.is_model(name):
        return name
    architecture = str(getattr(net, "pretrained_cfg", {}).get("architecture", ""))
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    if not timm.is_model(architecture) or shapes != {
        key: value.shape for key, value in create(architecture).state_dict().items()
    }:
        raise UserError(
            f"--encoder {source}: a model that timm can't make without what stands there; name an architecture"
        )
    return architecture


def _fitting(file: str, net: nn.Module, source: str) -> dict[str, Tensor]:
    """A file's tensors under the model's names, without those of its head."""
    tensors = timm_file(file, f"--encoder {source}")
    wanted = net.state_dict()
    if wanted.keys() <= tensors.keys():
        return {key: tensors[key] for key in wanted}
    try:
        return remap_state_dict(dict(list(tensors.items())[: len(wanted)]), net)  # pyright: ignore[reportArgumentType]
    except (AssertionError, KeyError, IndexError):
        missing = sorted(wanted.keys() - tensors.keys())
        raise UserError(
            f"--encoder {source}: {file} has other weights: {len(missing)} tensors are missing, e.g. {missing[0]}"
        ) from None


def read_backbone(
    data: bytes, where: str, size: Size = AS_TRAINED, drop_path: float = 0.0, predictor: bytes | None = None
) -> Backbone:
    """An encoder for evaluation, from the bytes of its file: ours (with its predictor), or one of `timm_bytes`.

    Raises:
        UserError: neither; `where` is named.
    """
    if is_encoder_file(data):
        ours = _Ours(data, where, size, drop_path)
        return ours if predictor is None else _WithPredictor(ours, predictor)
    try:
        return _Timm(data, where, size, drop_path)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: not the file of an encoder ({type(error).__name__})") from None


def _header(data: bytes, where: str) -> dict[str, Any]:
    """What `timm_bytes` has written: a stranger's would have timm fetch or read what it names, or make huge views.

    Raises:
        UserError: it is no architecture of timm's, or no encoder has such sizes.
    """
    header = json.loads(safetensors_metadata(data)[HEADER_KEY])
    name, side = header["name"], header["image_size"]
    if not isinstance(name, str) or ":" in name or not timm.is_model(name):
        raise UserError(f"{where}: {str(name)[:60]!r} is no architecture of timm")
    if type(side) is not int or not 1 <= side <= LARGEST_SIDE or any(len(header[key]) != 3 for key in ("mean", "std")):
        raise UserError(f"{where}: a side, mean or standard deviation that no encoder has")
    return header
