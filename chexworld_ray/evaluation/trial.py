"""One trial: a protocol on one dataset's features. `run_trial` works on a laptop; Tune only fans it out."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import FeatureSet
from chexworld_ray.evaluation.linear import linear_scores
from chexworld_ray.metrics.knn import knn_scores

Protocol = Literal["knn", "linear"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
UncertainPolicy = Literal["ignore", "zero", "one"]

SCORES_SCHEMA = pa.schema(
    [
        ("label", pa.string()),
        ("image_id", pa.string()),
        ("patient_id", pa.string()),
        ("truth", pa.float32()),
        ("score", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Splits:
    """Which splits a probe is fitted, tuned and tested on."""

    train: str = "train"
    val: str = "val"
    test: str = "test"


def parse_protocols(text: str) -> list[Protocol]:
    """Protocols from a comma-separated list.

    Raises:
        UserError: one is not known.
    """
    chosen: list[Protocol] = []
    for name in text.split(","):
        if name == "knn" or name == "linear":
            chosen.append(name)
        else:
            raise UserError(f"--protocol {name}: no such protocol; there are {', '.join(PROTOCOLS)}")
    return chosen


def run_trial(
    features: dict[str, FeatureSet], protocol: Protocol, policy: UncertainPolicy, splits: Splits
) -> tuple[pa.Table, list[str]]:
    """Test scores of every label that can be evaluated (SCORES_SCHEMA), and a line for each that can't.

    Images whose label is unknown take no part; uncertain ones (-1) as `policy` says.
    """
    rows: list[dict[str, object]] = []
    skipped: list[str] = []
    missing = [name for name in (splits.train, splits.test) if name not in features]
    if missing:
        return pa.Table.from_pylist([], schema=SCORES_SCHEMA), [f"no images in split {' and '.join(missing)}"]
    train, test = features[splits.train], features[splits.test]
    val = features.get(splits.val)
    for label in sorted(train.labels):
        train_x, train_y, train_index = _known(train, label, policy)
        test_x, test_y, test_index = _known(test, label, policy)
        if len(np.unique(train_y)) < 2 or len(np.unique(test_y)) < 2:
            if len(train_y) and len(test_y):
                skipped.append(f"{label}: only one class in training or test images")
            continue
        if protocol == "knn":
            scores = knn_scores(train_x, train_y, test_x)
        else:
            val_x, val_y, _ = _known(val, label, policy) if val else (train_x[:0], train_y[:0], [])
            patients = [train.patients[index] for index in train_index]
            scores, _ = linear_scores(train_x, train_y, patients, val_x, val_y, test_x)
        rows += [
            {
                "label": label,
                "image_id": test.image_ids[index],
                "patient_id": test.patients[index],
                "truth": float(truth),
                "score": float(score),
            }
            for index, truth, score in zip(test_index, test_y, scores, strict=True)
        ]
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), skipped


def _known(part: FeatureSet, label: str, policy: UncertainPolicy) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Features, 0/1 truth and row numbers where the label is known."""
    values = part.labels[label].copy()
    if policy != "ignore":
        values[values == -1] = 1.0 if policy == "one" else 0.0
    index = np.flatnonzero((values == 0) | (values == 1))
    return part.features_ND[index], values[index], index.tolist()
