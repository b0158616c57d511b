"""Training of the check of pictures (`shards/picture.py`): a network of 44,000 numbers, in minutes on two cores."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chexworld_ray.benchmarks.picture_material import DRAWN, Material, draw_batch, in_pieces, squared
from chexworld_ray.shards.picture import FLAGS, KINDS, LOGITS, SIDE, STRIDE, scores, weights_of

BATCH = 128
LEARNING_RATE = 3e-3
WIDTHS = (16, 32, 48)
HIDDEN = 32
LEAST_LIMIT = 0.0
"""Log-odds: what is flagged is likelier than not, in the eyes of the network."""


class PictureNet(nn.Module):
    """Three convolutions of stride 2, one hidden layer, and the logits that `picture.LOGITS` counts."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((1, *WIDTHS), WIDTHS, strict=False):
            side = 5 if before == 1 else 3
            conv = nn.Conv2d(before, width, side, STRIDE, side // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.hidden = nn.Linear(WIDTHS[-1] * (SIDE // STRIDE ** len(WIDTHS)) ** 2, HIDDEN)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(HIDDEN, LOGITS)

    def forward(self, pictures_BHW: Tensor) -> Tensor:
        """Logits, BxLOGITS, of standardised pictures."""
        features = self.body(pictures_BHW[:, None]).flatten(1)
        return self.out(self.drop(F.relu(self.hidden(features))))


def train(material: list[Material], good: list[Material], steps: int) -> dict[str, np.ndarray]:
    """Arrays of `picture.weights_of`, trained on `material`; `good` are frontal radiographs of other patients.

    No good radiograph may exceed a limit: neither in the eyes of the network that is kept, nor in those of one that
    was trained, half as long, without its source. For a user's hospital is one that training has not seen.
    """
    arrays = _fitted(material, steps)
    limits_F = _highest([picture_HW for one in good for picture_HW in one.pictures], arrays)
    for source in sorted({one.source for one in material if one.kind == "frontal"} - {DRAWN}):
        without = _fitted([one for one in material if one.source != source], steps // 2)
        unseen = [picture_HW for one in good if one.source == source for picture_HW in one.pictures]
        limits_F = np.maximum(limits_F, _highest(unseen, without))
    return arrays | {"limits": limits_F}


def _highest(good: Sequence[np.ndarray], arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The highest score of pictures that deserve no flag, for each of picture.FLAGS; at least LEAST_LIMIT."""
    weights = weights_of(arrays)
    return np.max([np.full(len(FLAGS), LEAST_LIMIT), *(scores(picture_HW, weights) for picture_HW in good)], axis=0)


def _fitted(material: list[Material], steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The network after `steps` batches, as arrays."""
    pieces = [in_pieces(one, seed) for one in material if one.kind == "frontal"]
    torch.manual_seed(seed)
    net = PictureNet()
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.1)
    squares = [squared(one) for one in [*material, *pieces]]
    with ThreadPoolExecutor(1) as pool:
        for pictures_BHW, truth in pool.map(lambda step: _batch(squares, seed, step), range(steps)):
            loss = _loss(net, pictures_BHW, truth)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return folded(net.eval())


def _batch(material: list[Material], seed: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Standardised pictures BxHxW, as `picture.scores` sees them, and what is wrong with them."""
    rng = np.random.default_rng([seed, 5, step])
    samples = draw_batch(material, rng, BATCH)
    pictures_BHW = torch.from_numpy(np.stack([sample.picture_HW for sample in samples])).float()
    deviation, mean = torch.std_mean(pictures_BHW, dim=(1, 2), keepdim=True, correction=0)
    return (pictures_BHW - mean) / deviation.clamp(min=1.0), {
        "kind": torch.tensor([KINDS.index(sample.kind) for sample in samples]),
        "quarters": torch.tensor([sample.quarters for sample in samples]),
        "negative": torch.tensor([float(sample.negative) for sample in samples]),
        "mirrored": torch.tensor([float(sample.mirrored) for sample in samples]),
    }


def _loss(net: PictureNet, pictures_BHW: Tensor, truth: dict[str, Tensor]) -> Tensor:
    """Cross-entropies: of the kind; of turn and negative where there is a chest; of mirroring where it is upright."""
    chest = truth["kind"] != KINDS.index("other")
    upright = (truth["kind"] == KINDS.index("frontal")) & (truth["quarters"] == 0) & (truth["negative"] == 0)
    everything = net(torch.cat([pictures_BHW, pictures_BHW[upright].flip(2)]))
    logits, reflected = everything[: len(pictures_BHW)], everything[len(pictures_BHW) :]
    kinds, turns, negative = logits.split([len(KINDS), 4, 2], dim=1)
    mirrored = logits[upright, -1] - reflected[:, -1]
    return (
        F.cross_entropy(kinds, truth["kind"])
        + F.cross_entropy(turns[chest], truth["quarters"][chest])
        + F.binary_cross_entropy_with_logits(negative[chest, 0], truth["negative"][chest])
        + F.binary_cross_entropy_with_logits(mirrored, truth["mirrored"][upright])
    )


def folded(net: PictureNet) -> dict[str, np.ndarray]:
    """The network's arrays in float16, batch norms folded into the convolutions."""
    tensors: dict[str, Tensor] = {}
    for number in range(len(WIDTHS)):
        conv, norm = net.body[3 * number], net.body[3 * number + 1]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        tensors[f"convolution{number}"] = conv.weight * scale[:, None, None, None]
        tensors[f"convolution{number}_bias"] = norm.bias - mean * scale
    for number, layer in enumerate((net.hidden, net.out)):
        tensors |= {f"dense{number}": layer.weight, f"dense{number}_bias": layer.bias}
    arrays = {name: tensor.detach().numpy().astype(np.float16) for name, tensor in tensors.items()}
    return arrays | {"limits": np.full(len(FLAGS), LEAST_LIMIT)}
