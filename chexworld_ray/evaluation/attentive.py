"""Attentive probe: a learned query looks at the frozen tokens, a linear head at what it found (V-JEPA, Bardes 2024).

Legend: B images, T tokens, D width, H heads, K width of a head, C outputs.
"""

import numpy as np
import torch
from torch import Tensor, nn

from chexworld_ray.evaluation.examples import Examples, Output, Problem
from chexworld_ray.evaluation.fit import Fitted, fit, label_loss, probabilities
from chexworld_ray.evaluation.settings import AttentiveSettings
from chexworld_ray.metrics.classification import mean_auroc

VERSION = 1  # raise it where the same inputs give other scores than before
CHUNK = 512


class AttentiveHead(nn.Module):
    """BxTxD → BxC."""

    def __init__(self, width: int, outputs: int, heads: int) -> None:
        super().__init__()
        heads = max(number for number in range(1, heads + 1) if width % number == 0)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.after = nn.LayerNorm(width)
        self.linear = nn.Linear(width, outputs)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Logits."""
        tokens = self.norm(tokens_BTD)
        return self.linear(self.after(look(self.attention, self.query[0, 0], tokens)))


def look(attention: nn.MultiheadAttention, query_D: Tensor, tokens_BTD: Tensor) -> Tensor:
    """What `attention(query, tokens, tokens)` gives for one query that all images share, BxD.

    Keys and values of the tokens are never made: the query goes through the keys' matrix once, and what it pools goes
    through the values' matrix once an image. T times less work, for a bias of keys cancels in the softmax and weights
    sum to 1.
    """
    heads = (attention.num_heads, attention.head_dim)
    to_query, to_key_HKD, to_value_HKD = (part.unflatten(0, heads) for part in attention.in_proj_weight.chunk(3))
    query_bias_HK, _, value_bias_HK = (part.unflatten(0, heads) for part in attention.in_proj_bias.chunk(3))
    query_HK = (to_query @ query_D + query_bias_HK) / attention.head_dim**0.5
    probes_HD = torch.einsum("hk,hkd->hd", query_HK, to_key_HKD)
    weights_BHT = (tokens_BTD @ probes_HD.T).transpose(1, 2).softmax(dim=2)
    values_BHK = torch.einsum("bhd,hkd->bhk", weights_BHT @ tokens_BTD, to_value_HKD) + value_bias_HK
    return attention.out_proj(values_BHK.flatten(1))


def attentive_probabilities(
    problem: Problem, settings: AttentiveSettings, seed: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray, str]:
    """Probabilities of validation (VxC) and test (MxC), and what was chosen."""
    parts = {"train": problem.train, "val": problem.val, "test": problem.test}
    tokens, outputs = {name: _standardised(part, problem.train) for name, part in parts.items()}, problem.outputs
    truth = torch.from_numpy(problem.truth_NC.astype(np.float32))
    best: tuple[float, float, Fitted, dict[str, Tensor]] | None = None
    head = AttentiveHead(tokens["train"].shape[2], truth.shape[1], settings.heads)
    for lr in settings.lrs:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = AttentiveHead(tokens["train"].shape[2], truth.shape[1], settings.heads).to(device)

        def loss(rows: np.ndarray, _epoch: int, head: AttentiveHead = head) -> Tensor:
            return label_loss(head(tokens["train"][rows].float().to(device)), truth[rows].to(device), outputs)

        def quality(head: AttentiveHead = head) -> float:
            return mean_auroc(problem.val_truth_VC, _predict(head, tokens["val"], outputs, device))

        groups = [
            {"params": [p for p in head.parameters() if p.ndim > 1], "lr": lr, "weight_decay": settings.weight_decay},
            {"params": [p for p in head.parameters() if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
        ]
        done = fit(head, groups, loss, quality, len(problem.train), settings.fit, seed)
        if best is None or done.quality > best[0]:
            best = (done.quality, lr, done, {name: value.clone() for name, value in head.state_dict().items()})
    assert best is not None
    head.load_state_dict(best[3])
    chosen = f"lr {best[1]:g}, epoch {best[2].best_epoch}"
    on_val, on_test = (_predict(head, tokens[name], outputs, device) for name in ("val", "test"))
    return on_val, on_test, chosen


def _standardised(part: Examples, train: Examples) -> Tensor:
    assert part.features is not None
    assert train.features is not None
    scale = float(train.features[:256].astype(np.float32).std()) + 1e-6
    return torch.from_numpy(part.features / np.float16(scale))


@torch.inference_mode()
def _predict(head: AttentiveHead, tokens_NTD: Tensor, outputs: list[list[Output]], device: torch.device) -> np.ndarray:
    head.eval()
    if not len(tokens_NTD):
        return np.zeros((0, sum(map(len, outputs))))
    parts = [head(part.float().to(device)) for part in tokens_NTD.split(CHUNK)]
    return probabilities(torch.cat(parts), outputs)
