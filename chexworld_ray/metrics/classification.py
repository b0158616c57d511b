"""AUROC under many sets of weights at once: what a bootstrap needs, and sklearn does one at a time."""

import numpy as np


def auroc(truth_N: np.ndarray, scores_N: np.ndarray, weights_SN: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve for S sets of sample weights (S values; one where no weights are given).

    Ties count half (Mann-Whitney). A set of weights under which only one class remains gives NaN.
    """
    order = np.argsort(scores_N, kind="stable")
    truth, scores = truth_N[order].astype(bool), scores_N[order]
    weights = np.ones((1, len(truth))) if weights_SN is None else weights_SN[:, order].astype(np.float64)
    positive, negative = weights * truth, weights * ~truth
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])  # groups of equal scores
    positive_of_group = np.add.reduceat(positive, starts, axis=1)
    negative_of_group = np.add.reduceat(negative, starts, axis=1)
    below = np.cumsum(negative_of_group, axis=1) - negative_of_group
    wins = (positive_of_group * (below + 0.5 * negative_of_group)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, wins / pairs, np.nan)
