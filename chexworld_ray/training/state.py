"""All that training changes, and how it starts."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from chexworld_ray.config import OptimSettings, Science
from chexworld_ray.models.encoder import Encoder, build_encoder, suit_device
from chexworld_ray.objectives.sigreg import Sums
from chexworld_ray.objectives.world_model import Losses, WorldModel, targets_and_losses
from chexworld_ray.training.recent import Recent
from chexworld_ray.views.batch import WorldModelBatch


@dataclass
class TrainState:
    """The trained model, its target encoder, its optimizer, and the one integer that says where we are."""

    model: WorldModel
    """Encoder and predictor; never wrapped."""
    forward: nn.Module
    """`model`, wrapped in DistributedDataParallel where there are several workers."""
    target: Encoder
    compute: Callable[[Encoder, nn.Module, WorldModelBatch, Sums | None], tuple[Tensor, Losses]]
    """`world_model.targets_and_losses`, or what torch.compile made of it."""
    optimizer: torch.optim.Optimizer
    device: torch.device
    total: int
    """Images of the whole run."""
    skipped: Tensor
    """Steps skipped because the gradient was not finite (a device scalar)."""
    skipped_in_row: Tensor
    """Of them, those since the last step that was finite."""
    position: int = 0
    """Images seen; stands on global-batch borders only."""
    recent: Recent = field(default_factory=Recent)
    """What the monitors remember of the newest steps."""


def initial_model(science: Science) -> WorldModel:
    """Encoder and predictor with the random weights of the seed: where a run starts, and what it is held against."""
    encoder = build_encoder(science.model, science.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(science.seed + 1)
        return WorldModel(science.model, science.objective, encoder)


def start_state(science: Science, total_images: int, device: torch.device) -> TrainState:
    """Weights of the seed, the target a copy of the encoder, a fresh optimizer."""
    model = initial_model(science).to(device)
    suit_device(model, device)
    target = copy.deepcopy(model.encoder).requires_grad_(False).eval()
    optimizer = make_optimizer(model, science.optim)
    none = torch.zeros((), device=device)
    return TrainState(model, model, target, targets_and_losses, optimizer, device, total_images, none, none.clone())


def make_optimizer(model: nn.Module, optim: OptimSettings) -> torch.optim.Optimizer:
    """Fused AdamW; vectors (biases, norms) and the mask token have no weight decay."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    plain = [p for name, p in trained if p.ndim < 2 or name.endswith("mask_token")]
    decayed = [p for name, p in trained if not (p.ndim < 2 or name.endswith("mask_token"))]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)
