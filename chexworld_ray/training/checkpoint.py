"""TrainState ↔ a folder of files. A checkpoint is whole, by MANIFEST.json, or it is not used.

encoder.safetensors, target.safetensors   timm's keys; the header carries model settings and pixel statistics
predictor.safetensors, optimizer.pt       what is needed to go on
state.json                                position and what the run was
MANIFEST.json                             size and sha256 of each of the others
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chexworld_ray.config import ModelSettings
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.weights import save_encoder
from chexworld_ray.objectives.world_model import WorldModel
from chexworld_ray.training.parallel import load_whole, load_whole_optimizer, whole_optimizer, whole_state
from chexworld_ray.training.state import TrainState

MANIFEST = "MANIFEST.json"
PREDICTOR = "predictor.safetensors"
PREFIX = "checkpoint_"


def folder_name(position: int) -> str:
    """Name of the checkpoint at a position; sorts by position."""
    return f"{PREFIX}{position:012d}"


def position_of(name: str) -> int | None:
    """The position that a folder name tells, None where it is not a checkpoint's."""
    digits = name.removeprefix(PREFIX)
    return int(digits) if name.startswith(PREFIX) and digits.isdigit() else None


class Weights(NamedTuple):
    """Whole tensors on the CPU: both encoders under timm's keys, and the predictor."""

    encoder: dict[str, Tensor]
    target: dict[str, Tensor]
    predictor: dict[str, Tensor]


def weights_of(world: WorldModel, target: Encoder) -> Weights:
    """All weights; where they are sharded, every worker must ask for them."""
    return Weights(whole_state(world.encoder.vit), whole_state(target.vit), whole_state(world.predictor))


def save(
    state: TrainState, folder: Path | None, model: ModelSettings, pixels: tuple[float, float], facts: dict[str, Any]
) -> None:
    """Write a checkpoint into an empty local folder; `facts` (plan digest, workers, …) go into state.json.

    Where the state is sharded every worker must call this; those without a folder only give their part.
    """
    weights, optimizer = weights_of(state.model, state.target), whole_optimizer(state.optimizer)
    if folder is None:
        return
    save_weights(weights, folder, model, pixels, state.position)
    torch.save(optimizer, folder / "optimizer.pt")
    seal(folder, {"position": state.position, "total": state.total, "skipped_steps": int(state.skipped)} | facts)


def save_weights(
    weights: Weights, folder: Path, model: ModelSettings, pixels: tuple[float, float], position: int
) -> None:
    """Encoder, target and predictor of a checkpoint."""
    save_encoder(weights.encoder, folder / "encoder.safetensors", model, pixels, position)
    save_encoder(weights.target, folder / "target.safetensors", model, pixels, position)
    save_file(weights.predictor, folder / PREDICTOR)


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Write state.json, then MANIFEST.json over all files: from here on the checkpoint is whole."""
    (folder / "state.json").write_text(json.dumps(record, indent=1))
    entries = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in sorted(folder.iterdir())
    }
    (folder / MANIFEST).write_text(json.dumps({"files": entries}, indent=1))


def damage(folder: Path) -> str | None:
    """What is wrong with a local copy of a checkpoint; None where it is whole."""
    try:
        entries = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"no readable {MANIFEST}"
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, {entry['bytes']} were written"
        if hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            return f"{name} differs from what was written"
    return None


def load(state: TrainState, folder: Path) -> dict[str, Any]:
    """Put a whole checkpoint into `state`; returns its state.json."""
    load_whole(state.model.encoder.vit, load_file(folder / "encoder.safetensors"))
    load_whole(state.target.vit, load_file(folder / "target.safetensors"))
    load_whole(state.model.predictor, load_file(folder / PREDICTOR))
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True, map_location=state.device)
    load_whole_optimizer(state.optimizer, optimizer)
    record = json.loads((folder / "state.json").read_text())
    state.position = int(record["position"])
    state.skipped = torch.tensor(float(record["skipped_steps"]), device=state.device)
    return record
