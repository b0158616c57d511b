"""Where fine-tuning's head starts: at the linear probe of the frozen encoder (LP-FT, Kumar et al., ICLR 2022).

Legend: N training, V validation images, D width, C outputs, K outputs of one label.
"""

import numpy as np
import torch

from chexworld_ray.evaluation.augment import centre_view
from chexworld_ray.evaluation.examples import Examples, Problem
from chexworld_ray.evaluation.features import embed
from chexworld_ray.evaluation.linear import linear_head
from chexworld_ray.hashing import Purpose, generator
from chexworld_ray.models.backbone import Backbone

VERSION = 2  # raise it where the same inputs give other scores than before
MOST = 5_000
"""Training images that the head starts from: more cost more than they teach, for all of them are trained on anyway."""


def probe_head(backbone: Backbone, problem: Problem, seed: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Matrix CxD and bias C of the linear probe of each label, on features of the encoder as it is.

    It sees what fine-tuning is chosen and tested on, the centre of an image; the protocol `linear` sees the whole.
    Of large sets it is fitted on `MOST` images, drawn by `seed`; a label of which these lack a class starts at 0.

    Raises:
        ArithmeticError: a probe's solver does not converge.
    """
    drawn = np.sort(generator(seed, Purpose.HEAD_IMAGES).permutation(len(problem.train))[:MOST])
    train, truth_NC = problem.train.take(drawn), problem.truth_NC[drawn]
    train_ND, val_VD = (_features(backbone, part, device) for part in (train, problem.val))
    weight_CD, bias_C = np.zeros((truth_NC.shape[1], backbone.width)), np.zeros(truth_NC.shape[1])
    start = 0
    for label in problem.outputs:
        columns = slice(start, start + len(label))
        start = columns.stop
        rows, classes = _classes(truth_NC[:, columns])
        if len(np.unique(classes)) < max(2, len(label)):
            continue
        at, val_classes = _classes(problem.val_truth_VC[:, columns])
        patients = [train.patients[row] for row in rows.tolist()]
        weight, bias = linear_head(train_ND[rows], classes, patients, val_VD[at], val_classes)
        if len(label) == 2:  # two outputs under a softmax: only their difference counts
            weight, bias = np.vstack([0.0 * weight, weight]), np.concatenate([[0.0], bias])
        weight_CD[columns], bias_C[columns] = weight, bias
    return weight_CD, bias_C


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
