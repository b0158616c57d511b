"""Collapse and capacity: the spectrum of the features, their effective rank, and what tells the hospital from them.

Legend: N images, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from chexworld_ray.analysis.outcome import Outcome, interval
from chexworld_ray.evaluation.linear import linear_probabilities
from chexworld_ray.metrics.rankme import rankme


@dataclass(frozen=True)
class Features:
    """Mean-pooled features of the target encoder, and whose they are."""

    of: str
    train_ND: np.ndarray
    test_ND: np.ndarray


def capacity(
    found: Sequence[Features],
    train: tuple[Sequence[str], Sequence[str]],
    test: tuple[Sequence[str], Sequence[str]],
) -> Outcome:
    """`train` and `test`: data set and patient of each image."""
    rows, curves = [], {}
    for one in found:
        centred = one.test_ND - one.test_ND.mean(axis=0)
        values = np.linalg.svd(centred.astype(np.float64), compute_uv=False) ** 2
        shares = values / max(values.sum(), 1e-12)
        dimensions = int(np.searchsorted(np.cumsum(shares), 0.9)) + 1
        rank = rankme(torch.from_numpy(one.test_ND))
        rows.append([one.of, f"{rank:.1f}", f"{dimensions}", f"{shares[0]:.3f}", _source(one, train, test)])
        curves[one.of] = shares.tolist()
    names = sorted(set(test[0]))
    hospital = f" Hospital: accuracy of a linear probe, balanced over {', '.join(names)}; chance {1 / len(names):.2f}. "
    return Outcome(
        "capacity",
        f"Collapse and capacity: {len(test[0])} images, {found[0].test_ND.shape[1]} dimensions",
        [
            "model",
            "effective rank",
            "dimensions for 90 % of the variance",
            "share of the largest",
            "hospital told right",
        ],
        rows,
        "Effective rank: RankMe of centred mean-pooled features."
        + (f"{hospital}High is no merit: it says how much the features tell of it." if len(names) > 1 else ""),
        curves,
    )


def _source(
    one: Features, train: tuple[Sequence[str], Sequence[str]], test: tuple[Sequence[str], Sequence[str]]
) -> str:
    """Balanced accuracy of a linear probe for the data set, fitted on the other split's patients."""
    names = sorted(set(train[0]))
    if len(names) < 2 or set(test[0]) - set(names):
        return "one source"
    classes = np.array([names.index(name) for name in train[0]], float)
    nothing = np.zeros((0, one.train_ND.shape[1]))
    (scores_NC,), _ = linear_probabilities(one.train_ND, classes, list(train[1]), nothing, np.zeros(0), [one.test_ND])
    truth = np.array([names.index(name) for name in test[0]])
    right = (scores_NC.argmax(axis=1) == truth).astype(float)
    return interval(right, test[1], truth)
