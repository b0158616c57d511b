"""One trial: task x protocol x fraction of labels x draw, of one encoder. Works on a laptop; Tune only fans it out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from chexworld_ray.evaluation.attentive import attentive_probabilities
from chexworld_ray.evaluation.examples import (
    Examples,
    Output,
    Problem,
    fraction_of,
    joined,
    known,
    outputs_of,
    published_draw,
    shots_of,
    truths,
)
from chexworld_ray.evaluation.finetune import finetune_probabilities
from chexworld_ray.evaluation.linear import linear_probabilities
from chexworld_ray.evaluation.segment import segment
from chexworld_ray.evaluation.settings import EvaluationSettings, Protocol, SegmentSettings
from chexworld_ray.evaluation.tasks import Task
from chexworld_ray.metrics.classification import best_threshold
from chexworld_ray.metrics.knn import knn_scores
from chexworld_ray.models.backbone import Backbone, Size

VERSION = 1  # raise it where the same inputs give other scores than before
NEEDS: dict[str, Literal["features", "tokens", "images"]] = {
    "knn": "features",
    "linear": "features",
    "fewshot": "features",
    "attentive": "tokens",
    "finetune": "images",
    "segment": "images",
}

SCORES_SCHEMA = pa.schema(
    [
        ("label", pa.string()),
        ("group", pa.string()),  # the label that a class belongs to
        ("image_id", pa.string()),
        ("patient_id", pa.string()),
        ("truth", pa.float32()),
        ("score", pa.float32()),  # probability; Dice of a segmentation
        ("threshold", pa.float32()),  # with the best F1 on validation; null for a segmentation
        ("distance", pa.float32()),  # of outlines, per cent of the view's side; null for a classification
    ]
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is done with an encoder."""

    task: Task
    protocol: Protocol
    fraction: float = 1.0
    """Share of the training patients whose labels are used."""
    shots: int = 0
    """Of `fewshot`: positives and negatives of each label."""
    draw: int = 0
    """Seed of the share or the shots, and of what starts at random."""

    @property
    def name(self) -> str:
        """How results name the protocol."""
        return f"fewshot-{self.shots}" if self.protocol == "fewshot" else self.protocol


@dataclass(frozen=True)
class Scored:
    """Test scores (SCORES_SCHEMA), a line for each label that has none, and what stands beside the numbers."""

    scores: pa.Table
    skipped: list[str]
    facts: dict[str, Any]


def run_trial(
    parts: dict[str, Examples],
    trial: Trial,
    settings: EvaluationSettings,
    backbone: Callable[[Size, float], Backbone],
    device: torch.device,
    report: Callable[[int, float], None] | None = None,
) -> Scored:
    """Fit on `train`, choose on `val`, score `test`.

    Images whose label is unknown take no part; uncertain and empty ones as the task says. `backbone(size, drop path)`
    opens the encoder for protocols that train it; `report(epoch, quality)` hears of each epoch of `finetune`.
    """
    missing = [name for name in (settings.train_split, settings.test_split) if name not in parts]
    if missing:
        return Scored(SCORES_SCHEMA.empty_table(), [f"no images in split {' and '.join(missing)}"], {})
    train, test = parts[settings.train_split], parts[settings.test_split]
    val = parts[settings.val_split] if settings.val_split in parts else train.take(np.array([], int))
    if trial.protocol == "segment":
        return _segment(train, val, test, trial, settings.segment, backbone, device)
    outputs, skipped = _possible(outputs_of([train, test], trial.task), train, test, trial.task)
    if not outputs:
        return Scored(SCORES_SCHEMA.empty_table(), skipped, {})
    train, val = _drawn(train, val, truths(train, outputs, trial.task), truths(val, outputs, trial.task), trial)
    outputs, short = _possible(outputs, train, test, trial.task)
    truth = [truths(part, outputs, trial.task) for part in (train, val, test)]
    problem = Problem(outputs, train, truth[0], val, truth[1], test)
    if trial.protocol in ("knn", "linear", "fewshot"):
        on_val, on_test, chosen = _by_label(train, val, test, outputs, trial)
    elif trial.protocol == "attentive":
        on_val, on_test, chosen = attentive_probabilities(problem, settings.attentive, trial.draw, device)
    else:
        own = settings.finetune
        encoder = backbone(Size(), own.drop_path)
        on_val, on_test, chosen = finetune_probabilities(encoder, problem, own, trial.draw, device, report)
    facts = {"train": len(train), "val": len(val), "chosen": chosen}
    return Scored(_table(test, outputs, truth[1:], [on_val, on_test]), sorted({*skipped, *short}), facts)


def _possible(
    outputs: list[list[Output]], train: Examples, test: Examples, task: Task
) -> tuple[list[list[Output]], list[str]]:
    """Labels with more than one class in training and test images, and a line for each other that is known at all."""
    kept, skipped = [], []
    for label in outputs:
        values = [known(part, label[0].label, task)[0] for part in (train, test)]
        if all(len(np.unique(part)) > 1 for part in values):
            there = set(values[0].tolist())
            kept.append([output for output in label if len(label) == 1 or output.value in there])
        elif all(map(len, values)):
            skipped.append(f"{label[0].label}: only one class in training or test images")
    return kept, skipped


def _drawn(
    train: Examples, val: Examples, truth_NC: np.ndarray, val_truth_VC: np.ndarray, trial: Trial
) -> tuple[Examples, Examples]:
    """The share of training (and, for shots, validation) images that the trial may use."""
    if trial.protocol != "fewshot":
        return train.take(fraction_of(train, truth_NC, trial.fraction, trial.draw)), val
    name = f"{trial.shots}_exp{trial.draw + 1}"
    pool = joined(train, val)  # a published draw's images may stand in either split here
    if len(rows := published_draw(pool, name, "train")):
        return pool.take(rows), pool.take(published_draw(pool, name, "val"))
    return (
        train.take(shots_of(train, truth_NC, trial.shots, trial.draw)),
        val.take(shots_of(val, val_truth_VC, trial.shots, trial.draw)),
    )


def _by_label(
    train: Examples, val: Examples, test: Examples, outputs: list[list[Output]], trial: Trial
) -> tuple[np.ndarray, np.ndarray, str]:
    """kNN or linear probe of one label after the other, on the images where it is known."""
    assert train.features is not None
    others = [part.features for part in (val, test) if part.features is not None]
    columns: list[list[np.ndarray]] = []
    chosen: list[str] = []
    for label in outputs:
        classes, rows = known(train, label[0].label, trial.task)
        features = train.features[rows]
        if trial.protocol == "knn":
            truth = [(classes == output.value).astype(float) for output in label]
            found = [np.stack([knn_scores(features, one, part) for one in truth], axis=1) for part in others]
        else:
            val_classes, at = known(val, label[0].label, trial.task)
            patients = [train.patients[row] for row in rows.tolist()]
            found, penalty = linear_probabilities(features, classes, patients, others[0][at], val_classes, others)
            found = [part[:, 1:] if len(label) == 1 else part for part in found]
            chosen.append(f"{label[0].label}: C {penalty:g}")
        columns.append(found)
    on_val, on_test = (np.concatenate([found[at] for found in columns], axis=1) for at in (0, 1))
    return on_val, on_test, "; ".join(chosen)


def _table(test: Examples, outputs: list[list[Output]], truth: list[np.ndarray], scores: list[np.ndarray]) -> pa.Table:
    """A row for each test image and output where the truth is known; `truth` and `scores` of validation and test."""
    rows: list[dict[str, object]] = []
    for column, output in enumerate(output for label in outputs for output in label):
        at = np.isfinite(truth[0][:, column])
        threshold = best_threshold(truth[0][at, column], scores[0][at, column])
        rows += [
            {
                "label": output.name,
                "group": output.label,
                "image_id": test.image_ids[index],
                "patient_id": test.patients[index],
                "truth": float(truth[1][index, column]),
                "score": float(scores[1][index, column]),
                "threshold": threshold,
            }
            for index in np.flatnonzero(np.isfinite(truth[1][:, column])).tolist()
        ]
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def _segment(
    train: Examples,
    val: Examples,
    test: Examples,
    trial: Trial,
    settings: SegmentSettings,
    backbone: Callable[[Size, float], Backbone],
    device: torch.device,
) -> Scored:
    organs = [
        organ
        for organ in trial.task.organs or sorted(train.masks)
        if _outlined(train, organ) and _outlined(test, organ)
    ]
    if not organs:
        return Scored(SCORES_SCHEMA.empty_table(), ["no masks in training and test images"], {})
    train, val, test = (part.take(_any_mask(part, organs)) for part in (train, val, test))
    train = train.take(fraction_of(train, np.zeros((len(train), 0)), trial.fraction, trial.draw))
    encoder = backbone(Size(patch=settings.patch_size), settings.drop_path)
    rows, chosen = segment(encoder, train, val, test, organs, settings, trial.draw, device)
    table = pa.Table.from_pylist([row | {"group": row["label"]} for row in rows], schema=SCORES_SCHEMA)
    return Scored(table, [], {"train": len(train), "val": len(val), "chosen": chosen})


def _outlined(part: Examples, organ: str) -> bool:
    return any(data is not None for data in part.masks.get(organ, ()))


def _any_mask(part: Examples, organs: list[str]) -> np.ndarray:
    return np.array([at for at in range(len(part)) if any(part.masks[organ][at] is not None for organ in organs)], int)
