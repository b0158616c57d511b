"""Linear probe: logistic regression on standardised frozen features, its penalty chosen on validation patients."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from chexworld_ray.metrics.classification import auroc

PENALTIES = tuple(float(c) for c in np.logspace(-4, 1, 6))
FOLDS = 5


def linear_scores(
    train_ND: np.ndarray,
    truth_N: np.ndarray,
    patients: list[str],
    val_VD: np.ndarray,
    val_truth_V: np.ndarray,
    test_MD: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Decision values on the test set (M), and the inverse penalty C that was chosen.

    C is the one with the best validation AUROC; where validation has one class only, by cross-validation over
    patients of the training set.
    """
    mean, std = train_ND.mean(axis=0), train_ND.std(axis=0) + 1e-6
    train, val, test = ((part - mean) / std for part in (train_ND, val_VD, test_MD))
    if len(np.unique(val_truth_V)) == 2:
        quality = [float(auroc(val_truth_V, _fit(train, truth_N, c).decision_function(val))[0]) for c in PENALTIES]
    else:
        quality = [_cross_validated(train, truth_N, patients, c) for c in PENALTIES]
    best = PENALTIES[int(np.nanargmax(quality))] if np.isfinite(quality).any() else 1e-2
    return _fit(train, truth_N, best).decision_function(test), best


def _fit(features_ND: np.ndarray, truth_N: np.ndarray, penalty: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=penalty, max_iter=1000).fit(features_ND, truth_N)


def _cross_validated(features_ND: np.ndarray, truth_N: np.ndarray, patients: list[str], penalty: float) -> float:
    folds = min(FOLDS, len(set(patients)))
    if folds < 2:
        return float("nan")
    scores = np.full(len(truth_N), np.nan)
    for fit, held in GroupKFold(folds).split(features_ND, truth_N, patients):
        if len(np.unique(truth_N[fit])) == 2:
            scores[held] = _fit(features_ND[fit], truth_N[fit], penalty).decision_function(features_ND[held])
    known = np.isfinite(scores)
    return float(auroc(truth_N[known], scores[known])[0]) if known.any() else float("nan")
