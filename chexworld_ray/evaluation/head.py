"""Where fine-tuning's head starts: at the linear probe of the frozen encoder (LP-FT, Kumar et al., ICLR 2022).

Legend: N training, V validation images, D width, C outputs, K outputs of one label.
"""

import numpy as np
import torch

from chexworld_ray.evaluation.augment import centre_view
from chexworld_ray.evaluation.examples import Examples, Problem
from chexworld_ray.evaluation.features import embed
from chexworld_ray.evaluation.linear import linear_head
from chexworld_ray.models.backbone import Backbone


def probe_head(backbone: Backbone, problem: Problem, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Matrix CxD and bias C of the linear probe of each label, on features of the encoder as it is.

    It sees what fine-tuning is chosen and tested on, the centre of an image; the protocol `linear` sees the whole.

    Raises:
        ArithmeticError: a probe's solver does not converge.
    """
    train_ND, val_VD = (_features(backbone, part, device) for part in (problem.train, problem.val))
    weights, biases, start = [], [], 0
    for label in problem.outputs:
        columns = slice(start, start + len(label))
        start += len(label)
        rows, classes = _classes(problem.truth_NC[:, columns])
        at, val_classes = _classes(problem.val_truth_VC[:, columns])
        patients = [problem.train.patients[row] for row in rows.tolist()]
        weight, bias = linear_head(train_ND[rows], classes, patients, val_VD[at], val_classes)
        if len(label) == 2:  # two outputs under a softmax: only their difference counts
            weight, bias = np.vstack([0.0 * weight, weight]), np.concatenate([[0.0], bias])
        weights.append(weight)
        biases.append(bias)
    return np.concatenate(weights), np.concatenate(biases)


def _features(backbone: Backbone, part: Examples, device: torch.device) -> np.ndarray:
    if not len(part):
        return np.zeros((0, backbone.width), np.float32)
    return embed(backbone.eval(), part.images, device, view=centre_view)


def _classes(truth_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows where the label is known to be one of its outputs (or, of a single one, yes or no), and which."""
    known = np.isfinite(truth_NK).all(axis=1)
    if truth_NK.shape[1] == 1:
        rows = np.flatnonzero(known)
        return rows, truth_NK[rows, 0]
    rows = np.flatnonzero(known & (np.nan_to_num(truth_NK).sum(axis=1) > 0))
    return rows, truth_NK[rows].argmax(axis=1).astype(float)
