"""Results on scores whose answer is known."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import feature_table, load_features
from chexworld_ray.evaluation.results import ScoredTrial, headlines, merge, result_rows
from chexworld_ray.evaluation.results_file import add_results, read_results, write_results
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.evaluation.trial import SCORES_SCHEMA
from chexworld_ray.storage import place


def trial(run: str, seen: int, seed: int | None, rows: list[dict[str, object]], **other: object) -> ScoredTrial:
    kind = other.pop("kind", "checkpoint" if seen else "random")
    values = {"task": "here", "protocol": "linear", "kind": kind} | other
    table = pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)
    return ScoredTrial(run=run, images_seen=seen, seed=seed, scores=table, **values)  # type: ignore[arg-type]


def scored(run: str, seen: int, seed: int, quality: float) -> ScoredTrial:
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99).integers(0, 2, 120)
    score = quality * truth + rng.standard_normal(120)
    rows: list[dict[str, object]] = [
        {
            "label": label,
            "group": label,
            "threshold": 0.5,
            "image_id": f"i{i}",
            "patient_id": f"p{i // 2}",
            "truth": float(t),
            "score": float(s),
        }
        for label in ("a", "b")
        for i, (t, s) in enumerate(zip(truth, score, strict=True))
    ]
    return trial(run, seen, seed, rows)


def test_differences_are_paired_and_pooled_over_seeds(tmp_path: Path) -> None:
    trials = [scored(f"s{seed}", seen, seed, 2.0 if seen else 0.5) for seed in range(3) for seen in (0, 100)]
    rows = result_rows(trials)
    pooled = [row for row in rows if row.encoder == "mean of 3 seeds - random"]
    assert {row.task for row in pooled} == {"here/a", "here/b", "here/mean"}
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
    common = scored("s", 0, 0, 1.0)
    table = common.scores.to_pylist()
    for number, row in enumerate(table):
        if row["label"] == "b":
            row["truth"] = 1.0 if number % 120 < 4 else 0.0
    rare = trial("s", 0, 0, table)
    tasks = {row.task: row for row in result_rows([rare])}
    assert tasks["here/b"].positives == 4
    assert "here/mean" not in tasks  # one label left: nothing to average
    assert "here/mean" in {row.task for row in result_rows([common])}


def test_an_imported_run_at_position_0_is_told_from_its_random_start() -> None:
    floor, imported = scored("published", 0, 0, 0.5), replace(scored("published", 0, 0, 2.0), kind="checkpoint")
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
    features = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    (tmp_path / "features").mkdir()
    pq.write_table(feature_table(rows, features), tmp_path / "features" / "part.parquet")
    found = load_features(place(str(tmp_path / "features")), "x")
    assert set(found) == {"train", "test"}
    assert found["test"].features is not None
    assert found["test"].features.tolist() == [[2.0, 3.0]]
    (tmp_path / "tokens").mkdir()
    tokens = np.arange(24, dtype=np.float16).reshape(3, 4, 2)
    pq.write_table(feature_table(rows, tokens), tmp_path / "tokens" / "part.parquet")
    with_tokens = load_features(place(str(tmp_path / "tokens")), "x")["test"].features
    assert with_tokens is not None
    assert with_tokens.tolist() == tokens[1:2].tolist()
    assert np.isnan(found["test"].labels["z"]).all()
    assert load_features(place(str(tmp_path / "nothing")), "x") == {}, "no image is frontal, or in a split asked for"


def test_unknown_protocol_is_one_line() -> None:
    with pytest.raises(UserError, match="svm"):
        _ = EvaluationSettings(protocol="knn,svm").protocols


def test_draws_are_averaged_and_only_their_mean_is_a_headline() -> None:
    trials = [replace(scored("s", 100, seed, 1.5), seed=0, draw=seed, fraction=0.1) for seed in range(3)]
    floor = [replace(scored("s", 0, 10 + seed, 0.5), seed=0, draw=seed, fraction=0.1) for seed in range(3)]
    rows = result_rows([*trials, *floor])
    single = [
        r.value
        for r in rows
        if r.metric == "auroc" and r.task == "here/a" and r.encoder == "s@100" and r.draw is not None
    ]
    (mean,) = [r for r in headlines(rows) if r.metric == "auroc" and r.task == "here/a" and r.encoder == "s@100"]
    assert len(single) == 3
    assert mean.value == pytest.approx(np.mean(single))
    assert mean.draw is None
    (difference,) = [r for r in headlines(rows) if r.metric == "auroc_difference" and r.task == "here/a"]
    assert difference.encoder == "s@100 - random"
    assert difference.fraction == 0.1
    assert difference.low > 0


def test_a_run_is_compared_with_other_peoples_encoders() -> None:
    other = replace(scored("timm:vit", 0, 5, 3.0), kind="foreign", seed=None)
    rows = result_rows([scored("s", 100, 0, 0.5), scored("s", 0, 1, 0.4), other])
    named = {row.encoder: row for row in rows if row.metric == "auroc_difference" and row.task == "here/a"}
    assert set(named) == {"s@100 - random", "s@100 - timm:vit"}
    assert named["s@100 - timm:vit"].high < 0


def test_segmentation_tells_dice_of_all_of_positives_and_distance() -> None:
    """Half of the images are empty, and a model that predicts nothing is right on them."""
    rows: list[dict[str, object]] = [
        {
            "label": "opacity",
            "group": "opacity",
            "image_id": f"i{i}",
            "patient_id": f"p{i}",
            "truth": float(i % 2),
            "score": 1.0 - i % 2,
            "distance": 4.0 if i % 4 == 1 else float("nan"),
        }
        for i in range(40)
    ]
    found = {row.metric: row for row in result_rows([trial("s", 0, 0, rows, protocol="segment")])}
    assert found["dice"].value == 0.5
    assert found["dice_positive"].value == 0.0
    assert found["hd95"].value == 4.0
    assert found["dice"].positives == 20
    assert {row.metric for row in headlines(list(found.values()))} == {"dice", "dice_positive"}


def test_a_label_with_classes_has_an_accuracy() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, 60)
    scores = rng.dirichlet(np.ones(3), 60)
    rows: list[dict[str, object]] = [
        {
            "label": f"kind={value}",
            "group": "kind",
            "threshold": 0.5,
            "image_id": f"i{i:02d}",
            "patient_id": f"p{i}",
            "truth": float(kinds[i] == value),
            "score": float(scores[i, value]),
        }
        for value in range(3)
        for i in range(60)
    ]
    found = {(row.task, row.metric): row for row in result_rows([trial("s", 0, 0, rows)])}
    right = scores.argmax(1) == kinds
    assert found["here/kind", "accuracy"].value == pytest.approx(right.mean())
    assert found["here/kind", "accuracy"].n == 60
    other = f"i{np.flatnonzero(right & (kinds == 0))[0]:02d}"
    for row in rows:  # now of a class that training has nothing of
        row["truth"] = 0.0 if row["image_id"] == other else row["truth"]
    less = {(row.task, row.metric): row for row in result_rows([trial("s", 0, 0, rows)])}
    assert less["here/kind", "accuracy"].value == pytest.approx((right.sum() - 1) / 60)
    assert ("here/kind=1", "auroc") in found
    assert ("here/kind", "auroc") not in found


def test_writers_of_results_at_once_lose_no_rows(tmp_path: Path) -> None:
    """As of `evaluate` from several machines, and of `--watch` beside it. What was there before stays too."""
    out = place(str(tmp_path))
    rows = result_rows([scored("s", seen, 0, 2.0) for seen in (0, 100)])
    before, parts = rows[:2], [rows[at : at + 1] for at in range(2, 12)]
    write_results(out, before)
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(lambda part: add_results(out, part), parts))
    assert sorted(map(repr, read_results(out))) == sorted(map(repr, rows[:12]))
    assert [file.name for file in tmp_path.iterdir()] == ["results.parquet"]


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"encoder": ["a"], "value": [1.0]}), tmp_path / "results.parquet")
    with pytest.raises(UserError, match="another version"):
        read_results(place(str(tmp_path)))
