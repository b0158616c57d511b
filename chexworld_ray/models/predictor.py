"""The predictor g and the action network π.

Legend: R directions (context, query pairs), K context tokens, T queries, D encoder width, P predictor width, A = 6:
the photometric action and whether the target is mirrored against its context.
"""

from functools import partial
from typing import NamedTuple

import torch
from timm.layers.weight_init import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from chexworld_ray.config import ModelSettings
from chexworld_ray.models.encoder import key_mask, run_block
from chexworld_ray.models.positions import sincos
from chexworld_ray.views.actions import ACTION_SIZE

TOLD_SIZE = ACTION_SIZE + 1
SCALE_UNIT = 10.0  # natural logarithms of a size ratio, in patches (WORLD_MODEL, `scaled`)


class ActionNetwork(nn.Module):
    """π: three linear layers with ReLU between, [query ; action] → query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width + TOLD_SIZE, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )

    def forward(self, queries_RTP: Tensor, actions_RA: Tensor) -> Tensor:
        """Queries that know the action, RxTxP."""
        actions = actions_RA[:, None].expand(-1, queries_RTP.shape[1], -1)
        return self.layers(torch.cat([queries_RTP, actions.to(queries_RTP.dtype)], dim=-1))


class Predictor(nn.Module):
    """Context tokens and queries through pre-norm blocks; the outputs back in encoder width."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.width = settings.predictor_width
        self.swapped = settings.compat == "chexworld"
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(settings.width, self.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.width))
        self.action_network = ActionNetwork(self.width)
        self.scale_network = nn.Linear(2 * self.width, self.width) if settings.scale_code else None
        self.blocks = nn.ModuleList(
            Block(self.width, settings.heads, qkv_bias=True, norm_layer=norm)  # pyright: ignore[reportArgumentType]
            for _ in range(settings.predictor_depth)
        )
        self.norm = norm(self.width)
        self.project = nn.Linear(self.width, settings.width)
        self.checkpointed = False
        self.apply(_initialise)
        trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self,
        context_RKD: Tensor,
        context_positions_RK2: Tensor,
        context_valid_RK: Tensor,
        queries: "QueryTensors",
        with_context: bool = False,
    ) -> Tensor:
        """Predicted target tokens, RxTxD, or Rx(K+T)xD `with_context`.

        Positions are (row, column) in the grid of the context's view.
        """
        places = context_positions_RK2.flip(-1) if self.swapped else context_positions_RK2
        context = self.embed(context_RKD) + sincos(places, self.width)
        asked = self.action_network(self.mask_token + self._code(queries), queries.actions_RA)
        tokens = torch.cat([context, asked], dim=1)
        mask = key_mask(torch.cat([context_valid_RK, queries.valid_RT], dim=1))
        for block in self.blocks:
            tokens = run_block(block, tokens, mask, self.checkpointed)
        return self.project(self.norm(tokens if with_context else tokens[:, context_RKD.shape[1] :]))

    def _code(self, queries: "QueryTensors") -> Tensor:
        place_RTP = sincos(queries.positions_RT2, self.width)
        if self.scale_network is None:
            return place_RTP
        size_R1P = sincos(SCALE_UNIT * queries.scales_R2.log(), self.width)[:, None]
        return self.scale_network(torch.cat([place_RTP, size_R1P.expand_as(place_RTP)], dim=-1))


class QueryTensors(NamedTuple):
    """What is asked: T patches for each of R directions."""

    positions_RT2: Tensor
    valid_RT: Tensor
    scales_R2: Tensor
    """Size (height, width) of the target's view over the context's."""
    actions_RA: Tensor


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
