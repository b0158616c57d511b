"""Probes and results on features whose answer is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import FeatureSet, feature_table, load_features
from chexworld_ray.evaluation.results import ScoredTrial, merge, read_results, result_rows, write_results
from chexworld_ray.evaluation.trial import SCORES_SCHEMA, Splits, parse_protocols, run_trial
from chexworld_ray.storage import place


def part(count: int, seed: int, unknown: int = 0) -> FeatureSet:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, 8))
    truth = (features[:, 0] + 0.3 * rng.standard_normal(count) > 0).astype(float)
    truth[:unknown] = np.nan
    rare = np.where(np.arange(count) < 3, 1.0, 0.0)
    return FeatureSet(
        features,
        [f"p{seed}-{index // 2}" for index in range(count)],
        [f"i{seed}-{index}" for index in range(count)],
        {"sign": truth, "rare": rare, "always": np.zeros(count)},
    )


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_probe_learns_and_masks_unknown_labels(protocol: str) -> None:
    features = {"train": part(200, 0, unknown=50), "val": part(60, 1), "test": part(100, 2, unknown=10)}
    scores, skipped = run_trial(features, protocol, "ignore", Splits())
    assert set(scores["label"].to_pylist()) == {"sign", "rare"}
    assert any("always" in line for line in skipped)
    trial = ScoredTrial("run", 640, False, 0, "here", protocol, scores)
    (row,) = [row for row in result_rows([trial]) if row.task == "here/sign"]
    assert row.n == 90
    assert row.value > (0.85 if protocol == "knn" else 0.95)
    assert row.low < row.value < row.high


@pytest.mark.parametrize(("policy", "count"), [("ignore", 15), ("one", 20), ("zero", 20)])
def test_uncertain_labels_follow_the_policy(policy: str, count: int) -> None:
    values = np.r_[np.ones(8), np.zeros(7), -np.ones(5)]
    rng = np.random.default_rng(0)
    features = {
        split: FeatureSet(
            rng.standard_normal((20, 3)), [f"{split}{i}" for i in range(20)], list("x" * 20), {"a": values}
        )
        for split in ("train", "val", "test")
    }
    scores, _ = run_trial(features, "knn", policy, Splits())
    assert scores.num_rows == count
    assert sum(scores["truth"].to_pylist()) == 8 + (5 if policy == "one" else 0)


def scored(run: str, seen: int, seed: int, quality: float) -> ScoredTrial:
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99).integers(0, 2, 120)
    score = quality * truth + rng.standard_normal(120)
    rows = [
        {
            "label": label,
            "image_id": f"i{i}",
            "patient_id": f"p{i // 2}",
            "truth": float(t),
            "score": float(s),
        }
        for label in ("a", "b")
        for i, (t, s) in enumerate(zip(truth, score, strict=True))
    ]
    return ScoredTrial(run, seen, not seen, seed, "here", "linear", pa.Table.from_pylist(rows, schema=SCORES_SCHEMA))


def test_differences_are_paired_and_pooled_over_seeds(tmp_path: Path) -> None:
    trials = [scored(f"s{seed}", seen, seed, 2.0 if seen else 0.5) for seed in range(3) for seen in (0, 100)]
    rows = result_rows(trials)
    pooled = [row for row in rows if row.encoder == "mean of 3 seeds - random"]
    assert {row.task for row in pooled} == {"here/a", "here/b"}
    for row in pooled:
        single = [r for r in rows if r.metric == "auroc_difference" and r.task == row.task and r.seed is not None]
        assert row.value == pytest.approx(np.mean([r.value for r in single]))
        assert row.low > 0
        assert row.p_holm is not None
        assert row.p_holm < 0.05
    write_results(place(str(tmp_path)), rows)
    assert read_results(place(str(tmp_path))) == rows
    again = merge(rows, rows[:3])
    assert sorted(map(repr, again)) == sorted(map(repr, rows))
    first = pq.read_table(tmp_path / "results.parquet")
    assert {"encoder", "task", "protocol", "fraction", "seed", "metric", "value", "low", "high", "n"} <= set(
        first.column_names
    )


def test_rare_labels_stay_out_of_the_mean() -> None:
    trial = scored("s", 0, 0, 1.0)
    table = trial.scores.to_pylist()
    for number, row in enumerate(table):
        if row["label"] == "b":
            row["truth"] = 1.0 if number % 120 < 4 else 0.0
    rare = ScoredTrial("s", 0, True, 0, "here", "linear", pa.Table.from_pylist(table, schema=SCORES_SCHEMA))
    tasks = {row.task: row for row in result_rows([rare])}
    assert tasks["here/b"].positives == 4
    assert "here/mean" not in tasks  # one label left: nothing to average
    assert "here/mean" in {row.task for row in result_rows([trial])}


def test_an_imported_run_at_position_0_is_told_from_its_random_start() -> None:
    floor, imported = scored("published", 0, 0, 0.5), replace(scored("published", 0, 0, 2.0), random=False)
    rows = result_rows([floor, imported])
    assert {row.encoder for row in rows} == {"published@random", "published@0", "published@0 - random"}
    assert all(row.value > 0 for row in rows if row.metric == "auroc_difference")


def test_features_come_back_by_split(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "image_id": ["a", "b", "c"],
            "dataset": ["x", "x", "y"],
            "patient_id": ["p", "q", "r"],
            "split": ["train", "test", "test"],
            "label_z": pa.array([1.0, None, 0.0], pa.float32()),
        }
    )
    pq.write_table(feature_table(rows, np.arange(6.0).reshape(3, 2)), tmp_path / "part.parquet")
    found = load_features(place(str(tmp_path)), "x")
    assert set(found) == {"train", "test"}
    assert found["test"].features_ND.tolist() == [[2.0, 3.0]]
    assert np.isnan(found["test"].labels["z"]).all()


def test_unknown_protocol_is_one_line() -> None:
    with pytest.raises(UserError, match="svm"):
        parse_protocols("knn,svm")
