"""Classification metrics under many sets of weights at once: a bootstrap needs that; scikit-learn does one at a time.

Each takes truth (0 or 1) and scores of N images and S sets of sample weights SxN (one of ones where none are given),
and returns S values, NaN where a set of weights leaves nothing to count. Equal to scikit-learn's, which tests assert.
"""

import numpy as np

VERSION = 1  # raise it where the same inputs give other scores than before


def auroc(truth_N: np.ndarray, scores_N: np.ndarray, weights_SN: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve. Ties count half (Mann-Whitney)."""
    positive, negative = _by_score(truth_N, scores_N, weights_SN)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + 0.5 * negative)).sum(axis=1)
    return _ratio(wins, positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(truth_N: np.ndarray, scores_N: np.ndarray, weights_SN: np.ndarray | None = None) -> np.ndarray:
    """Sum of precision over steps of recall, from the highest score down."""
    positive, negative = (part[:, ::-1] for part in _by_score(truth_N, scores_N, weights_SN))
    hits = np.cumsum(positive, axis=1)
    called = hits + np.cumsum(negative, axis=1)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return _ratio((precision * positive).sum(axis=1), positive.sum(axis=1))


def sensitivity_at(
    truth_N: np.ndarray, scores_N: np.ndarray, weights_SN: np.ndarray | None = None, specificity: float = 0.9
) -> np.ndarray:
    """Largest sensitivity among the thresholds whose specificity is at least that."""
    positive, negative = (part[:, ::-1] for part in _by_score(truth_N, scores_N, weights_SN))
    sensitivity = _ratio(np.cumsum(positive, axis=1).T, positive.sum(axis=1)).T
    false_alarms = _ratio(np.cumsum(negative, axis=1).T, negative.sum(axis=1)).T
    found = np.where(false_alarms <= 1.0 - specificity + 1e-12, sensitivity, 0.0).max(axis=1, initial=0.0)
    return np.where(np.isfinite(sensitivity[:, -1] + false_alarms[:, -1]), found, np.nan)


def f1(
    truth_N: np.ndarray, scores_N: np.ndarray, weights_SN: np.ndarray | None = None, threshold: float = 0.5
) -> np.ndarray:
    """Harmonic mean of precision and recall of `score >= threshold`."""
    weights, called = _weights(truth_N, weights_SN), scores_N >= threshold
    hits = (weights * (called & (truth_N == 1))).sum(axis=1)
    return _ratio(2.0 * hits, (weights * (called.astype(float) + truth_N)).sum(axis=1))


def accuracy(right_N: np.ndarray, weights_SN: np.ndarray | None = None) -> np.ndarray:
    """Share of images that are classified rightly."""
    weights = _weights(right_N, weights_SN)
    return _ratio((weights * right_N).sum(axis=1), weights.sum(axis=1))


def calibration_error(
    truth_N: np.ndarray, scores_N: np.ndarray, weights_SN: np.ndarray | None = None, count: int = 15
) -> np.ndarray:
    """Expected calibration error of probabilities of the positive class, in `count` bins of equal width (15: Guo et
    al., ICML 2017).
    """
    weights = _weights(truth_N, weights_SN)
    bins = np.clip((scores_N * count).astype(int), 0, count - 1)
    gaps = [np.abs((weights * (truth_N - scores_N))[:, bins == number].sum(axis=1)) for number in range(count)]
    return _ratio(np.sum(gaps, axis=0), weights.sum(axis=1))


def best_threshold(truth_N: np.ndarray, scores_N: np.ndarray) -> float:
    """The score from which on calling positive gives the best F1; 0.5 where there is only one class."""
    if len(np.unique(truth_N)) < 2:
        return 0.5
    order = np.argsort(-scores_N, kind="stable")
    hits = np.cumsum(truth_N[order])
    quality = 2.0 * hits / (np.arange(1, len(order) + 1) + truth_N.sum())
    ends = np.flatnonzero(np.r_[np.diff(scores_N[order]) != 0, True])
    return float(scores_N[order][ends[quality[ends].argmax()]])


def mean_auroc(truth_NC: np.ndarray, scores_NC: np.ndarray) -> float:
    """Mean AUROC over columns that have both classes (NaN: unknown); NaN where none has."""
    values = []
    for truth, scores in zip(truth_NC.T, scores_NC.T, strict=True):
        at = np.isfinite(truth)
        if len(np.unique(truth[at])) == 2:
            values.append(float(auroc(truth[at], scores[at])[0]))
    return float(np.mean(values)) if values else float("nan")


def _weights(like_N: np.ndarray, weights_SN: np.ndarray | None) -> np.ndarray:
    return np.ones((1, len(like_N))) if weights_SN is None else weights_SN.astype(np.float64)


def _by_score(
    truth_N: np.ndarray, scores_N: np.ndarray, weights_SN: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives of each distinct score, ascending: SxG."""
    order = np.argsort(scores_N, kind="stable")
    truth, scores = truth_N[order].astype(bool), scores_N[order]
    weights = _weights(truth, weights_SN)
    weights = weights if weights_SN is None else weights[:, order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    return np.add.reduceat(weights * truth, starts, axis=1), np.add.reduceat(weights * ~truth, starts, axis=1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)
