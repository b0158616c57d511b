"""The table of a sweep, from scores whose answer is known."""

import numpy as np
import pyarrow as pa
import pytest

from chexworld_ray.evaluation.results import ScoredTrial
from chexworld_ray.evaluation.sweep import VariantTrials, sweep_rows
from chexworld_ray.evaluation.trial import SCORES_SCHEMA
from chexworld_ray.reports.text import sweep_table

TRUTH = np.random.default_rng(99).integers(0, 2, 160)


def scored(variant: str, seed: int, quality: float) -> ScoredTrial:
    """What seeds share (the images' difficulty) is far larger than what variants differ by: pairing must tell."""
    shared = np.random.default_rng(seed).standard_normal(160)
    rows = [
        {
            "label": label,
            "group": label,
            "threshold": 0.5,
            "image_id": f"i{i:03d}",
            "patient_id": f"p{i // 2}",
            "truth": float(TRUTH[i]),
            "score": float(quality * TRUTH[i] + shared[i]),
        }
        for label in ("a", "b")
        for i in range(160)
    ]
    table = pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)
    return ScoredTrial(
        run=f"{variant}-{seed}",
        images_seen=100,
        kind="checkpoint",
        seed=seed,
        task="here",
        protocol="knn",
        scores=table,
    )


def variant(name: str, quality: float) -> VariantTrials:
    return VariantTrials(name, [scored(name, seed, quality) for seed in range(3)])


def test_variants_are_means_over_seeds_compared_with_the_first() -> None:
    rows = sweep_rows([variant("first", 1.0), variant("poor", 0.8), variant("same", 1.0)])
    auroc = {row.encoder: row for row in rows if row.metric == "auroc" and row.task == "here/mean"}
    assert set(auroc) == {"first", "poor", "same"}
    assert all(row.seed is None for row in rows)
    told = {row.encoder: row for row in rows if row.metric == "auroc_difference" and row.task == "here/mean"}
    poor, same = told["poor - first"], told["same - first"]
    assert poor.value == pytest.approx(auroc["poor"].value - auroc["first"].value)
    assert poor.high < 0
    assert auroc["poor"].high > auroc["first"].low, "unpaired, the intervals overlap"
    assert poor.p_holm is not None
    assert poor.p_holm < 0.05
    assert (same.low, same.high) == (0, 0)
    lines = [line for line in sweep_table(rows).splitlines() if line.startswith("here/mean")]
    assert [line.split()[-1] for line in lines if " poor " in line] == ["worse"]
    assert [line.split()[-1] for line in lines if " same " in line] == ["undecided"]
