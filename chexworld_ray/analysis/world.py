"""A trained world model to ask questions of: both encoders and the predictor, out of a checkpoint.

Legend: B images, H height, W width, N patches, T queries, D width, A = 6: what the predictor is told.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chexworld_ray.config import Science
from chexworld_ray.models.encoder import Encoder, suit_device
from chexworld_ray.models.positions import grid_positions
from chexworld_ray.models.predictor import Predictor, QueryTensors
from chexworld_ray.models.tensors import check_predictor, read_safetensors
from chexworld_ray.models.weights import read_encoder
from chexworld_ray.objectives.queries import query_positions
from chexworld_ray.training.checkpoint_files import ENCODER, PREDICTOR, TARGET
from chexworld_ray.training.run import Run, local_copy
from chexworld_ray.training.start import start_of
from chexworld_ray.training.state import initial_model
from chexworld_ray.views.actions import IDENTITY
from chexworld_ray.views.relative import SAME_PLACE

Name = Literal["trained", "start", "random"]
FIRST = 10**9  # positions of what analyses draw, apart from those of training


@dataclass(frozen=True)
class World:
    """f, f'' and g in eval mode, without gradient."""

    name: Name
    encoder: Encoder
    target: Encoder
    predictor: Predictor
    science: Science
    pixels: tuple[float, float]
    device: torch.device

    @property
    def grid(self) -> int:
        """Patches of a side."""
        return self.science.model.grid


def read_world(folder: Path, one: Run, device: torch.device, name: Name = "trained") -> World:
    """The world model of a whole checkpoint, or of a kept start, in a local folder."""
    encoder, target = (
        read_encoder((folder / name).read_bytes(), f"{one.root.url} ({name})")[0] for name in (ENCODER, TARGET)
    )
    tensors = read_safetensors(folder / PREDICTOR, f"{one.root.url} ({PREDICTOR})")
    check_predictor(tensors, one.science.model, f"{one.root.url} ({PREDICTOR})")
    predictor = Predictor(one.science.model)
    predictor.load_state_dict(tensors)
    return _ready(name, encoder, target, predictor, one, device)


def random_world(one: Run, device: torch.device) -> World:
    """The same model with the random weights of its seed: what its architecture alone can do."""
    model = initial_model(one.science)
    return _ready("random", model.encoder, model.encoder, model.predictor, one, device)


def floor_worlds(one: Run, device: torch.device) -> list[World]:
    """What the trained model is held against: the start of a run that was told `--init`, and random weights."""
    found = [random_world(one, device)]
    stored = start_of(one)
    if stored is not None:
        with local_copy(stored) as (folder, damage):
            if damage is None:
                found.insert(0, read_world(folder, one, device, "start"))
    return found


def _ready(
    name: Name,
    encoder: Encoder,
    target: Encoder,
    predictor: Predictor,
    one: Run,
    device: torch.device,
) -> World:
    parts = [part.requires_grad_(False).eval().to(device) for part in (encoder, target, predictor)]
    for part in parts:
        suit_device(part, device)
    return World(name, encoder, target, predictor, one.science, one.pixels, device)


def grey(world: World, view_SS: np.ndarray) -> Tensor:
    """A uint8 view on [0, 1], 1xSxS."""
    return torch.from_numpy(view_SS).to(world.device).float().div(255.0)[None]


@torch.inference_mode()
def features(world: World, clean_BHW: Tensor) -> Tensor:
    """What is to be predicted of images on [0, 1]: f''(y), LayerNormed without affine, BxNxD."""
    tokens = world.target(_normalised(world, clean_BHW))
    return F.layer_norm(tokens, tokens.shape[-1:])


@torch.inference_mode()
def context(world: World, seen_BHW: Tensor, index_BK: Tensor | None = None, valid_BK: Tensor | None = None) -> Tensor:
    """f(x) of images on [0, 1]: BxNxD of whole ones, BxKxD of some patches."""
    return world.encoder(_normalised(world, seen_BHW), index_BK, valid_BK)


@torch.inference_mode()
def predictions(
    world: World,
    context_BKD: Tensor,
    told_BA: Tensor,
    relative_B6: Tensor,
    index_BK: Tensor | None = None,
    valid_BK: Tensor | None = None,
) -> Tensor:
    """g(f(x); a) at every patch of the view that lies at `relative_B6` of what is seen, BxNxD.

    `context_BKD`: of a whole view, or of the patches at `index_BK`.
    """
    places_N2 = grid_positions(world.grid, world.device)
    asked_BN2 = places_N2.expand(len(context_BKD), -1, -1)
    every = torch.ones(asked_BN2.shape[:2], dtype=torch.bool, device=world.device)
    seen_BK2, valid = (asked_BN2, every) if index_BK is None else (places_N2[index_BK], valid_BK)
    asked = QueryTensors(query_positions(asked_BN2, relative_B6, world.grid), every, relative_B6[:, 2:4], told_BA)
    return world.predictor(context_BKD, seen_BK2, valid, asked)


def same_place(world: World, count: int) -> Tensor:
    """Relative positions of views in themselves, Bx6."""
    return torch.tensor(SAME_PLACE, device=world.device).repeat(count, 1)


def told(world: World, actions_BA: Tensor | None, count: int) -> Tensor:
    """What the predictor is told: photometric actions (None: the identity), and no mirror, Bx6."""
    if actions_BA is None:
        actions_BA = torch.tensor(IDENTITY, device=world.device).expand(count, -1)
    return torch.cat([actions_BA, torch.zeros(count, 1, device=world.device)], dim=1)


def _normalised(world: World, images_BHW: Tensor) -> Tensor:
    return (images_BHW - world.pixels[0]) / world.pixels[1]


def rank_of(true: int, errors_C: Tensor) -> int:
    """How many candidates fit better than the true one; half of those that fit as well."""
    best = errors_C[true]
    return int((errors_C < best).sum()) + (int((errors_C == best).sum()) - 1) // 2
