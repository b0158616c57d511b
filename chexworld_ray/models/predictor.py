"""The predictor g and the action network π.

Legend: R directions (context, query pairs), K context tokens, T queries, D encoder width, P predictor width, A = 5.
"""

from functools import partial

import torch
from timm.layers.weight_init import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from chexworld_ray.config import ModelSettings
from chexworld_ray.models.encoder import key_mask
from chexworld_ray.models.positions import sincos
from chexworld_ray.views.actions import ACTION_SIZE


class ActionNetwork(nn.Module):
    """π: three linear layers with ReLU between, [query ; action] → query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width + ACTION_SIZE, width),
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
    """Context tokens and queries through pre-norm blocks; the outputs at the queries, back in encoder width."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.width = settings.predictor_width
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(settings.width, self.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.width))
        self.action_network = ActionNetwork(self.width)
        self.blocks = nn.ModuleList(
            Block(self.width, settings.heads, qkv_bias=True, norm_layer=norm)  # pyright: ignore[reportArgumentType]
            for _ in range(settings.predictor_depth)
        )
        self.norm = norm(self.width)
        self.project = nn.Linear(self.width, settings.width)
        self.apply(_initialise)
        trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self,
        context_RKD: Tensor,
        context_positions_RK2: Tensor,
        context_valid_RK: Tensor,
        query_positions_RT2: Tensor,
        query_valid_RT: Tensor,
        actions_RA: Tensor,
    ) -> Tensor:
        """Predicted target tokens, RxTxD. Positions are (row, column) in the grid of the context's view."""
        context = self.embed(context_RKD) + sincos(context_positions_RK2, self.width)
        queries = self.mask_token + sincos(query_positions_RT2, self.width)
        tokens = torch.cat([context, self.action_network(queries, actions_RA)], dim=1)
        mask = key_mask(torch.cat([context_valid_RK, query_valid_RT], dim=1))
        for block in self.blocks:
            tokens = block(tokens, attn_mask=mask)
        return self.project(self.norm(tokens[:, context_RKD.shape[1] :]))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
