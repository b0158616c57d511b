"""Files of tensors that anybody may have made: read without running what they hold, and without more memory than they
have bytes. What they say of a model is believed only where their tensors bear it out.
"""

import io
import json
import pickle
import re
import struct
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.serialization import safe_globals

from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.fold import POSITIONS
from chexworld_ray.models.predictor import Predictor
from chexworld_ray.regular_files import check_regular

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def safetensors_metadata(data: bytes) -> dict[str, Any]:
    """`__metadata__` of a safetensors file; empty where there is none or it is no such file."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        found = json.loads(data[8 : 8 + length])["__metadata__"]
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError, struct.error):
        return {}
    return found if isinstance(found, dict) else {}


def read_safetensors(data: bytes | Path, where: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file: its bytes, or where it lies.

    Raises:
        UserError: it is damaged, or no such file; `where` is named.
    """
    try:
        return plain(load_file(data) if isinstance(data, Path) else load_safetensors(data), where)
    except UserError:
        raise
    except Exception as error:  # the library has an exception of its own, and passes on those of others
        raise UserError(f"{where}: not a whole safetensors file ({type(error).__name__})") from None


def read_pickled(data: bytes | Path, where: str, device: torch.device | str = "cpu") -> Any:
    """What a file of `torch.save` (its bytes, or where it lies) holds, but for what is no tensor or plain value: that
    is never run.

    Raises:
        UserError: it is damaged or holds more; `where` is named.
    """
    refuse_compressed(data, where)
    try:
        with safe_globals([Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol: the error below says what matters
            return torch.load(_source(data), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)|Unsupported (?:global|class|operand)\S*:? ?(\S*)", str(error))
        what = f" ({found.group(0).rstrip('.')[:100]})" if found else ""
        raise UserError(
            f"{where}: refused: it is damaged or holds more than tensors and plain values{what}; nothing of it was run"
        ) from None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # torch, zip and pickle have no common base for what a damaged file raises
        raise UserError(f"{where}: not a checkpoint that torch can read ({type(error).__name__})") from None


def _source(data: bytes | Path) -> io.BytesIO | Path:
    return data if isinstance(data, Path) else io.BytesIO(data)


def refuse_compressed(data: bytes | Path, where: str) -> None:
    """Make sure that a file of `torch.save` unpacks to no more than its size.

    Raises:
        UserError: its parts are compressed, which torch never does.
    """
    if zipfile.is_zipfile(_source(data)):
        try:
            with zipfile.ZipFile(_source(data)) as archive:
                stored = all(one.compress_type == zipfile.ZIP_STORED for one in archive.infolist())
        except Exception as error:  # a directory of a zip can be damaged in ways that its reader does not foresee
            raise UserError(f"{where}: not a checkpoint that torch can read ({type(error).__name__})") from None
        if not stored:
            raise UserError(f"{where}: refused: torch stores tensors as they are, and here they are compressed")


def timm_file(file: str, where: str) -> dict[str, Tensor]:
    """The weights in a local file, whatever wrapping timm knows is around them.

    Raises:
        UserError: it holds none, more than weights, or is damaged; `where` is named.
    """
    try:
        check_regular(file)
        refuse_compressed(Path(file), where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol
            found = load_state_dict(file, use_ema=False, weights_only=True)
    except OSError as error:
        raise UserError(f"{where}: no file {file} ({error.strerror})") from None
    except UserError:
        raise
    except Exception as error:  # pickle, zip and safetensors have no common base
        raise UserError(
            f"{where}: not a file of weights, or holds more than weights ({type(error).__name__})"
        ) from None
    return plain(found, where)


def plain(tensors: object, where: str) -> dict[str, Tensor]:
    """Named tensors that take as much memory as they say.

    Raises:
        UserError: they are not.
    """
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{where}: not a file of weights: named tensors are expected")
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{where}: not a file of weights: {name[:60]!r} is a {type(value).__name__}, not a tensor")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            raise UserError(f"{where}: {name[:60]!r} is no plain tensor of real numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f"{where}: {name[:60]!r} says {tuple(value.shape)}, for which the file has too few numbers")
    return dict(tensors)


def check_encoder(tensors: Mapping[str, Tensor], model: ModelSettings, where: str) -> None:
    """Make sure that an encoder of these sizes can be built of these tensors, before it is.

    Tensors without positions, as those of other ViTs, are taken too.

    Raises:
        UserError: they do not fit; the first that does not is named.
    """
    positions = tensors.get(POSITIONS)
    if positions is not None and tuple(positions.shape) != (1, model.grid**2, model.width):
        raise UserError(f"{where}: {POSITIONS} has shape {tuple(positions.shape)}, its sizes say otherwise: {model}")
    one = replace(model, depth=1, image_size=model.patch_size)
    _check(tensors, lambda: Encoder(one).vit, model.depth, where, {POSITIONS})


def check_predictor(tensors: Mapping[str, Tensor], model: ModelSettings, where: str) -> None:
    """The same of a predictor.

    Raises:
        UserError: they do not fit.
    """
    _check(tensors, lambda: Predictor(replace(model, predictor_depth=1)), model.predictor_depth, where, set())


def _check(
    tensors: Mapping[str, Tensor], build: Callable[[], nn.Module], depth: int, where: str, free: set[str]
) -> None:
    """`build` makes one block only: a file that names a million of them must have them, before they are built."""
    blocks = {int(found[1]) for name in tensors if (found := _BLOCK.match(name))}
    if blocks != set(range(min(depth, len(tensors) + 1))):
        raise UserError(f"{where}: {depth} blocks are told, the file has tensors of {len(blocks)}")
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    wanted = {
        _BLOCK.sub(f"blocks.{number}.", name, count=1): shape
        for name, shape in expected.items()
        for number in (range(depth) if _BLOCK.match(name) else (0,))
    }
    for name in sorted((wanted.keys() | tensors.keys()) - free):
        has = tuple(tensors[name].shape) if name in tensors else None
        if name not in wanted or has != wanted[name]:
            raise UserError(
                f"{where}: the sizes that it tells do not fit its tensors: {name[:60]!r} is "
                f"{'missing' if has is None else has}, {wanted.get(name, 'nothing of that name')} is expected"
            )
