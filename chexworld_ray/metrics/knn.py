"""Nearest-neighbour probe on frozen features (Wu et al., CVPR 2018: cosine, weights exp(similarity/T))."""

import numpy as np

VERSION = 1  # raise it where the same inputs give other scores than before
NEIGHBOURS = 20
TEMPERATURE = 0.07


def similarities(train_ND: np.ndarray, test_MD: np.ndarray) -> np.ndarray:
    """Cosines MxN of features that are standardised by the training set's mean and standard deviation."""
    mean, std = train_ND.mean(axis=0), train_ND.std(axis=0) + 1e-6
    return _unit((test_MD - mean) / std) @ _unit((train_ND - mean) / std).T


def knn_scores(
    train_ND: np.ndarray, truth_N: np.ndarray, test_MD: np.ndarray, neighbours: int = NEIGHBOURS
) -> np.ndarray:
    """Weighted part of positive neighbours, M values in [0, 1]. Features are standardised by the training set's."""
    similarity = similarities(train_ND, test_MD)
    nearest = np.argpartition(-similarity, min(neighbours, len(train_ND)) - 1, axis=1)[:, :neighbours]
    weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / TEMPERATURE)
    return (weights * truth_N[nearest]).sum(axis=1) / weights.sum(axis=1)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
