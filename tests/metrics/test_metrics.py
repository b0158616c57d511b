import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from chexworld_ray.metrics.bootstrap import bootstrap, holm
from chexworld_ray.metrics.classification import (
    accuracy,
    auroc,
    average_precision,
    best_threshold,
    calibration_error,
    f1,
    mean_auroc,
    sensitivity_at,
)
from chexworld_ray.metrics.knn import knn_scores
from chexworld_ray.metrics.rankme import rankme
from chexworld_ray.metrics.segmentation import dice, hd95


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


@given(st.integers(0, 2**31), st.integers(4, 60), st.integers(1, 8))
def test_other_metrics_are_sklearns_with_ties_and_weights(seed: int, count: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.r_[0, 1, rng.integers(0, 2, count - 2)]
    scores = rng.integers(0, levels, count) / levels
    weights = rng.integers(0, 3, (3, count))
    weights[:, :2] += 1
    threshold = float(rng.choice(scores))
    for number, row in enumerate(weights):
        wanted = average_precision_score(truth, scores, sample_weight=row)
        assert np.isclose(average_precision(truth, scores, weights)[number], wanted)
        wanted = f1_score(truth, scores >= threshold, sample_weight=row, zero_division=0)  # pyright: ignore[reportArgumentType]
        assert np.isclose(f1(truth, scores, weights, threshold)[number], wanted)
        false_alarms, hits, _ = roc_curve(truth, scores, sample_weight=row, drop_intermediate=False)
        wanted = hits[false_alarms <= 0.3 + 1e-12].max()
        assert np.isclose(sensitivity_at(truth, scores, weights, 0.7)[number], wanted)
        right = (scores >= threshold) == truth
        assert np.isclose(accuracy(right, weights)[number], np.average(right, weights=row))


@given(st.integers(0, 2**31), st.integers(2, 40))
def test_the_best_threshold_has_the_best_f1(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    truth, scores = np.r_[0, 1, rng.integers(0, 2, count)], rng.integers(0, 9, count + 2) / 9
    best = max(f1(truth, scores, threshold=float(at))[0] for at in scores)
    assert f1(truth, scores, threshold=best_threshold(truth, scores))[0] == pytest.approx(best)
    assert best_threshold(np.ones(3), np.arange(3.0)) == 0.5


def test_calibration_error_is_the_gap_between_what_is_said_and_what_is() -> None:
    rng = np.random.default_rng(0)
    said = rng.uniform(size=200_000)
    truth = (rng.uniform(size=200_000) < said).astype(float)
    assert calibration_error(truth, said)[0] < 0.01
    assert calibration_error(truth, np.full(200_000, 0.9))[0] == pytest.approx(0.4, abs=0.01)


def test_mean_auroc_takes_columns_with_both_classes_and_known_rows() -> None:
    truth = np.array([[0, 1, np.nan], [1, 1, 0], [np.nan, 1, 1.0]])
    scores = np.array([[0.1, 0.2, 0.9], [0.9, 0.1, 0.7], [0.0, 0.3, 0.2]])
    assert mean_auroc(truth, scores) == pytest.approx((1.0 + 0.0) / 2)
    assert np.isnan(mean_auroc(truth[:, 1:2], scores[:, 1:2]))


def test_dice_and_distance_of_squares() -> None:
    first, second = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    first[10:20, 10:20], second[10:20, 13:23] = True, True
    assert dice(first, second) == pytest.approx(0.7)
    assert dice(first, first) == 1.0
    assert dice(first * 0 > 1, second * 0 > 1) == 1.0
    assert dice(first, second * 0 > 1) == 0.0
    assert hd95(first, second) == 3.0
    assert hd95(first, first) == 0.0
    assert np.isnan(hd95(first, second * 0 > 1))


def test_auroc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(auroc(np.ones(5), np.arange(5))[0])


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    """Scores of two normals one apart: AUROC 0.760. Of 100 experiments about 95 intervals hold it."""
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        truth = np.repeat([0, 1], 60)
        scores = rng.standard_normal(120) + truth
        interval = bootstrap(lambda w, _, t=truth, s=scores: auroc(t, s, w), [str(i) for i in range(120)], 0, draws=300)
        hits += interval.low <= 0.7602 <= interval.high
    assert 88 <= hits <= 100


def test_patients_widen_the_interval() -> None:
    """Four copies of each image of a patient carry no more information than one."""
    rng = np.random.default_rng(1)
    truth, scores = np.repeat([0, 1], 40), rng.standard_normal(80) + np.repeat([0, 1], 40)
    single = bootstrap(lambda w, _: auroc(truth, scores, w), [str(i) for i in range(80)], 0)
    t4, s4 = np.repeat(truth, 4), np.repeat(scores, 4)
    grouped = bootstrap(lambda w, _: auroc(t4, s4, w), [str(i // 4) for i in range(320)], 0)
    naive = bootstrap(lambda w, _: auroc(t4, s4, w), [str(i) for i in range(320)], 0)
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low, rel=0.15)
    assert naive.high - naive.low < 0.7 * (grouped.high - grouped.low)


def test_seeds_that_disagree_widen_the_interval() -> None:
    """Three networks of one quality on few patients, and three that differ: patients alone do not tell."""
    patients = [str(i) for i in range(200)]

    def width(qualities: tuple[float, ...]) -> float:
        found = bootstrap(lambda w, f: (f * np.array(qualities)).sum(axis=1) + 0.0 * w[:, 0], patients, 0, fits=3)
        assert found.value == pytest.approx(np.mean(qualities))
        return found.high - found.low

    assert width((0.7, 0.7, 0.7)) == pytest.approx(0.0, abs=1e-12)
    assert width((0.6, 0.7, 0.8)) == pytest.approx(0.2, abs=0.07)


def test_p_value_of_a_mean_is_that_of_a_z_test() -> None:
    """So it may fall below what draws can count (2 of 1,000), which a correction over a large table needs."""
    for shift in (0.0, 0.1, 0.3):
        values = np.random.default_rng(3).standard_normal(400) + shift
        found = bootstrap(lambda w, _, v=values: (w * v).sum(axis=1) / w.sum(axis=1), [str(i) for i in range(400)], 0)
        z = abs(values.mean()) / (values.std() / 20)
        assert found.p == pytest.approx(2 * norm.sf(z), rel=0.35, abs=1e-9)
    assert found.p < 1e-6


def test_draws_with_one_class_are_redrawn_and_counted() -> None:
    truth = np.r_[1, np.zeros(9)]
    interval = bootstrap(lambda w, _: auroc(truth, np.arange(10.0), w), [str(i) for i in range(10)], 0, draws=200)
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


@given(st.integers(1, 12), st.floats(0, 1e3))
def test_rankme_counts_equal_directions_wherever_their_mean_lies(rank: int, shift: float) -> None:
    """Uncentred, a mean that is 20 times the spread takes all but one of 12 directions away."""
    draws = torch.randn(40, rank, generator=torch.Generator().manual_seed(rank))
    basis = torch.linalg.qr(draws - draws.mean(dim=0))[0]
    features = basis @ torch.linalg.qr(torch.randn(16, rank, generator=torch.Generator().manual_seed(0)))[0].T
    assert rankme(features + shift) == pytest.approx(rank, rel=0.02)


def test_rankme_of_equal_features_is_one_whatever_their_rounding() -> None:
    row = torch.randn(16, generator=torch.Generator().manual_seed(0))
    rounding = 1e-8 * torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    assert rankme(row.repeat(40, 1)) == 1.0
    assert rankme(row + rounding) == 1.0
    assert rankme(torch.full((3, 4), float("nan"))) == 0.0
