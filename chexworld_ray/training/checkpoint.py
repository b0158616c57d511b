"""TrainState ↔ a folder of files (`training.checkpoint_files` says which)."""

import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.tensors import read_pickled, read_safetensors
from chexworld_ray.models.weights import encoder_bytes
from chexworld_ray.objectives.world_model import WorldModel
from chexworld_ray.storage import Place, place, read_json, write_bytes, write_json
from chexworld_ray.training.checkpoint_files import ENCODER, MANIFEST, OPTIMIZER, PREDICTOR, RECENT, STATE, TARGET
from chexworld_ray.training.parallel import load_whole, load_whole_optimizer, whole_optimizer, whole_state
from chexworld_ray.training.recent import Recent, recent_of
from chexworld_ray.training.state import TrainState

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


class Weights(NamedTuple):
    """Whole tensors on the CPU: both encoders under timm's keys, and the predictor."""

    encoder: dict[str, Tensor]
    target: dict[str, Tensor]
    predictor: dict[str, Tensor]


def weights_of(world: WorldModel, target: Encoder) -> Weights:
    """All weights; where they are sharded, every worker must ask for them."""
    return Weights(whole_state(world.encoder.vit), whole_state(target.vit), whole_state(world.predictor))


class Snapshot(NamedTuple):
    """A copy on the CPU of all that a checkpoint holds: training may go on while it is written."""

    weights: Weights
    optimizer: dict[str, Any] | None
    """None: nothing that training could go on from, as of an imported checkpoint."""
    model: ModelSettings
    pixels: tuple[float, float]
    record: dict[str, Any]
    """state.json; `position` is always in it."""
    recent: dict[str, Tensor] | None = None
    """What the monitors remember; None where nothing was trained."""


def snapshot(state: TrainState, model: ModelSettings, pixels: tuple[float, float], facts: dict[str, Any]) -> Snapshot:
    """Copy a state; `facts` (plan digest, …) go into state.json. Where it is sharded every worker must call."""
    weights, optimizer = weights_of(state.model, state.target), whole_optimizer(state.optimizer)
    record = {"position": state.position, "total": state.total, "skipped_steps": int(state.skipped)} | facts
    return Snapshot(weights, optimizer, model, pixels, record, state.recent.tensors())


def write(copy: Snapshot, root: Place) -> None:
    """Write a checkpoint: MANIFEST.json comes last, so that it is whole or not there.

    Raises:
        StorageError: the store can't be reached or refuses; the disk is full.
    """
    entries = {}
    for name, data in _files(copy):
        write_bytes(root / name, data)
        entries[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_json(root / MANIFEST, {"files": entries})


def _files(copy: Snapshot) -> Iterator[tuple[str, bytes]]:
    """Names and contents, one after the other, for each may be large."""
    position = copy.record["position"]
    yield ENCODER, encoder_bytes(copy.weights.encoder, copy.model, copy.pixels, position)
    yield TARGET, encoder_bytes(copy.weights.target, copy.model, copy.pixels, position)
    yield PREDICTOR, save(copy.weights.predictor)
    if copy.optimizer is not None:
        buffer = io.BytesIO()
        torch.save(copy.optimizer, buffer)
        yield OPTIMIZER, buffer.getvalue()
    if copy.recent:
        yield RECENT, save(copy.recent)
    yield STATE, json.dumps(copy.record, indent=1).encode()


def load(state: TrainState, folder: Path) -> dict[str, Any]:
    """Put a whole checkpoint into `state`; returns its state.json.

    Raises:
        UserError: a file is damaged, or its tensors do not fit the state; it may be a stranger's.
    """
    modules = {ENCODER: state.model.encoder.vit, TARGET: state.target.vit, PREDICTOR: state.model.predictor}
    for name, module in modules.items():
        tensors = read_safetensors(folder / name, f"{name} of the checkpoint")
        _check_fit(name, _shapes(tensors) == _shapes(module.state_dict()))
        load_whole(module, tensors)
    optimizer = read_pickled(folder / OPTIMIZER, f"{OPTIMIZER} of the checkpoint", state.device)
    try:
        _check_fit(OPTIMIZER, _moments_fit(state.optimizer, optimizer))
        load_whole_optimizer(state.optimizer, optimizer)
    except (LookupError, TypeError, ValueError, AttributeError):  # not RuntimeError: that may be a lost worker
        _check_fit(OPTIMIZER, False)
    state.recent = _read_recent(state, folder)
    record = _read_facts(folder)
    state.position = record["position"]
    state.skipped = torch.tensor(float(record["skipped_steps"]), device=state.device)
    return record


def _read_recent(state: TrainState, folder: Path) -> Recent:
    """Empty where an older program wrote the checkpoint: its curves begin anew there."""
    if not (folder / RECENT).exists():
        return Recent()
    tensors = read_safetensors(folder / RECENT, f"{RECENT} of the checkpoint")
    width, sums = state.model.encoder.vit.embed_dim, len(state.model.parts) + 4
    recent = recent_of(tensors, width, sums, state.device)
    _check_fit(RECENT, recent is not None)
    assert recent is not None
    return recent


def _check_fit(name: str, fits: bool) -> None:
    if not fits:
        raise UserError(f"{name}: the checkpoint's tensors do not fit this run's model")


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}


def _moments_fit(optimizer: torch.optim.Optimizer, record: Any) -> bool:
    """Whether each parameter's moments have its shape; what is missing altogether raises what Python raises."""
    sizes = [len(group["params"]) for group in record["param_groups"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return sizes == [len(group["params"]) for group in optimizer.param_groups] and all(
        entry["step"].ndim == 0 and {entry[name].shape for name in _MOMENTS} == {parameters[number].shape}
        for number, entry in record["state"].items()
    )


def _read_facts(folder: Path) -> dict[str, Any]:
    """state.json: a stranger's may hold anything.

    Raises:
        UserError: it does not say what a start needs to know.
    """
    record = read_json(place(str(folder / STATE)))
    for name in ("position", "skipped_steps"):
        if type(record.get(name)) is not int or not 0 <= record[name] < 1 << 53:
            raise UserError(f"{STATE} of the checkpoint: {name} is no number of images or steps; it is damaged")
    if not isinstance(record.get("plan"), str) or not re.fullmatch(r"[\w .-]*", str(record.get("attempt", ""))):
        raise UserError(f"{STATE} of the checkpoint: no plan, or an attempt that is no name; it is damaged")
    return record
