import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from chexworld_ray.metrics.bootstrap import bootstrap, holm
from chexworld_ray.metrics.classification import auroc
from chexworld_ray.metrics.knn import knn_scores
from chexworld_ray.metrics.rankme import rankme


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 60), st.integers(1, 8))
def test_auroc_is_sklearns_with_ties_and_weights(seed: int, count: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.r_[0, 1, rng.integers(0, 2, count - 2)]
    scores = rng.integers(0, levels, count) / levels
    weights = rng.integers(0, 3, (3, count))
    weights[:, :2] += 1
    got = auroc(truth, scores, weights)
    wanted = [roc_auc_score(truth, scores, sample_weight=row) for row in weights]
    assert np.allclose(got, wanted)
    assert np.isclose(auroc(truth, scores)[0], roc_auc_score(truth, scores))


def test_auroc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(auroc(np.ones(5), np.arange(5))[0])


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    """Scores of two normals one apart: AUROC 0.760. Of 100 experiments about 95 intervals hold it."""
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        truth = np.repeat([0, 1], 60)
        scores = rng.standard_normal(120) + truth
        interval = bootstrap(lambda w, t=truth, s=scores: auroc(t, s, w), [str(i) for i in range(120)], 0, draws=300)
        hits += interval.low <= 0.7602 <= interval.high
    assert 88 <= hits <= 100


def test_patients_widen_the_interval() -> None:
    """Four copies of each image of a patient carry no more information than one."""
    rng = np.random.default_rng(1)
    truth, scores = np.repeat([0, 1], 40), rng.standard_normal(80) + np.repeat([0, 1], 40)
    single = bootstrap(lambda w: auroc(truth, scores, w), [str(i) for i in range(80)], 0)
    t4, s4 = np.repeat(truth, 4), np.repeat(scores, 4)
    grouped = bootstrap(lambda w: auroc(t4, s4, w), [str(i // 4) for i in range(320)], 0)
    naive = bootstrap(lambda w: auroc(t4, s4, w), [str(i) for i in range(320)], 0)
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low, rel=0.15)
    assert naive.high - naive.low < 0.7 * (grouped.high - grouped.low)


def test_draws_with_one_class_are_redrawn_and_counted() -> None:
    truth = np.r_[1, np.zeros(9)]
    interval = bootstrap(lambda w: auroc(truth, np.arange(10.0), w), [str(i) for i in range(10)], 0, draws=200)
    assert 30 < interval.redrawn < 200
    assert np.isfinite(interval.low)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_knn_finds_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2, 16)) * 3
    truth = rng.integers(0, 2, 200)
    features = centres[truth] + rng.standard_normal((200, 16))
    scores = knn_scores(features[:150], truth[:150], features[150:])
    assert roc_auc_score(truth[150:], scores) > 0.99
    assert knn_scores(features[:3], truth[:3], features[:5]).shape == (5,)


@given(st.integers(1, 12))
def test_rankme_counts_equal_directions(rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(40, rank, generator=torch.Generator().manual_seed(rank)))[0]
    features = basis @ torch.linalg.qr(torch.randn(16, rank, generator=torch.Generator().manual_seed(0)))[0].T
    assert rankme(features) == pytest.approx(rank, rel=0.02)
