"""Linear probe: logistic regression on standardised frozen features, its L2 penalty chosen on validation patients."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from chexworld_ray.metrics.classification import mean_auroc

VERSION = 1  # raise it where the same inputs give other scores than before
PENALTIES = tuple(float(c) for c in np.logspace(-4, 1, 6))
WITHOUT_CHOICE = 1e-2
FOLDS = 5
MAX_ITERATIONS = 20_000


def linear_probabilities(
    train_ND: np.ndarray,
    classes_N: np.ndarray,
    patients: list[str],
    val_VD: np.ndarray,
    val_classes_V: np.ndarray,
    others: list[np.ndarray],
) -> tuple[list[np.ndarray], float]:
    """Class probabilities (rows x classes of train, ascending) of each of `others`, and the inverse penalty C chosen.

    C is the one with the best mean validation AUROC over classes; where validation has not all classes, by
    cross-validation over patients of the training set.

    Raises:
        ArithmeticError: the solver does not converge.
    """
    model, mean, std, best = _chosen(train_ND, classes_N, patients, val_VD, val_classes_V)
    nothing = np.zeros((0, len(model.classes_)))
    return [model.predict_proba((part - mean) / std) if len(part) else nothing for part in others], best


def linear_head(
    train_ND: np.ndarray, classes_N: np.ndarray, patients: list[str], val_VD: np.ndarray, val_classes_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same probe as a matrix CxD and a bias C on features as they are; C is 1 for two classes.

    Raises:
        ArithmeticError: the solver does not converge.
    """
    model, mean, std, _ = _chosen(train_ND, classes_N, patients, val_VD, val_classes_V)
    weight_CD = model.coef_ / std
    return weight_CD, model.intercept_ - weight_CD @ mean


def _chosen(
    train_ND: np.ndarray, classes_N: np.ndarray, patients: list[str], val_VD: np.ndarray, val_classes_V: np.ndarray
) -> tuple[LogisticRegression, np.ndarray, np.ndarray, float]:
    """Fitted with the best penalty, on features less their mean over their standard deviation."""
    exact_ND = train_ND.astype(np.float64)  # in float32 the solver's line search gets lost in rounding
    mean, std = exact_ND.mean(axis=0), exact_ND.std(axis=0) + 1e-6
    train, val = (exact_ND - mean) / std, (val_VD - mean) / std
    if set(np.unique(val_classes_V)) >= set(np.unique(classes_N)):
        quality = [_quality(_fit(train, classes_N, c), val, val_classes_V) for c in PENALTIES]
    else:
        quality = [_cross_validated(train, classes_N, patients, c) for c in PENALTIES]
    best = PENALTIES[int(np.nanargmax(quality))] if np.isfinite(quality).any() else WITHOUT_CHOICE
    return _fit(train, classes_N, best), mean, std, best


def _fit(features_ND: np.ndarray, classes_N: np.ndarray, penalty: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return LogisticRegression(C=penalty, max_iter=MAX_ITERATIONS).fit(features_ND, classes_N)
        except ConvergenceWarning as warning:
            raise ArithmeticError(f"linear probe, C = {penalty}: {warning}") from None


def _quality(model: LogisticRegression, features_ND: np.ndarray, classes_N: np.ndarray) -> float:
    truth_NC = (classes_N[:, None] == model.classes_).astype(float)
    return mean_auroc(truth_NC, model.predict_proba(features_ND))


def _cross_validated(features_ND: np.ndarray, classes_N: np.ndarray, patients: list[str], penalty: float) -> float:
    folds = min(FOLDS, len(set(patients)))
    if folds < 2:
        return float("nan")
    classes = np.unique(classes_N)
    scores_NC = np.full((len(classes_N), len(classes)), np.nan)
    for fit, held in GroupKFold(folds).split(features_ND, classes_N, patients):
        if len(np.unique(classes_N[fit])) == len(classes):
            scores_NC[held] = _fit(features_ND[fit], classes_N[fit], penalty).predict_proba(features_ND[held])
    seen = np.isfinite(scores_NC[:, 0])
    return mean_auroc((classes_N[seen, None] == classes).astype(float), scores_NC[seen])
