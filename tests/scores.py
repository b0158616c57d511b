"""Scores of trials whose answer is known: variants of a sweep that differ by a set amount."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from chexworld_ray.evaluation.results import ScoredTrial
from chexworld_ray.evaluation.sweep import FLOOR, VariantTrials
from chexworld_ray.evaluation.trial import SCORES_SCHEMA

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


def variant(name: str, quality: float, floor: VariantTrials | None = None) -> VariantTrials:
    return VariantTrials(name, [scored(name, seed, quality) for seed in range(3)], floor)


def start(quality: float, name: str = FLOOR) -> VariantTrials:
    """What variants were before training."""
    trials = [replace(scored("first", seed, quality), kind="random", images_seen=0) for seed in range(3)]
    return VariantTrials(name, trials)
