"""What a trial is fitted and tested on: images or their features, with labels, masks and patients.

Legend: N examples, C outputs, D width, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from chexworld_ray.evaluation.settings import UncertainPolicy
from chexworld_ray.evaluation.tasks import Task
from chexworld_ray.hashing import Purpose, generator

VERSION = 2  # raise it where the same inputs give other scores than before
Draw = Literal["train", "val"]


@dataclass(frozen=True)
class Examples:
    """Images of one data set in one split. `labels`: name → values, NaN where unknown, -1 where uncertain."""

    image_ids: list[str]
    patients: list[str]
    labels: dict[str, np.ndarray]
    features: np.ndarray | None = None
    """NxD float32, or tokens NxTxD float16."""
    images: list[bytes] = field(default_factory=list)
    """Encoded, for protocols that train the encoder."""
    masks: dict[str, list[bytes | None]] = field(default_factory=dict)
    """organ → PNG, None where unknown."""
    draws: dict[str, list[str | None]] = field(default_factory=dict)
    """Published few-shot draw → train, val or nothing."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, rows: np.ndarray) -> "Examples":
        """Some of them, in that order."""
        index: list[int] = rows.tolist()
        return Examples(
            [self.image_ids[at] for at in index],
            [self.patients[at] for at in index],
            {name: values[rows] for name, values in self.labels.items()},
            None if self.features is None else self.features[rows],
            [self.images[at] for at in index] if self.images else [],
            {name: [values[at] for at in index] for name, values in self.masks.items()},
            {name: [values[at] for at in index] for name, values in self.draws.items()},
        )


@dataclass(frozen=True)
class Output:
    """One number that a classifier gives. A label with several classes has one output a class."""

    name: str
    label: str
    value: float
    """The label's value that counts as positive."""


@dataclass(frozen=True)
class Problem:
    """What a classifier is fitted on, chosen on and tested on. Truths are NaN where unknown."""

    outputs: list[list[Output]]
    train: Examples
    truth_NC: np.ndarray
    val: Examples
    val_truth_VC: np.ndarray
    test: Examples


def outputs_of(parts: Sequence[Examples], task: Task) -> list[list[Output]]:
    """The outputs of every label, label by label: one for a yes or no, one a class for more than two classes."""
    found: list[list[Output]] = []
    for label in task.labels or sorted(parts[0].labels):
        values = np.unique(np.concatenate([known(part, label, task)[0] for part in parts]))
        if values.size and values.max() > 1:
            found.append([Output(f"{label}={value:g}", label, float(value)) for value in values])
        else:
            found.append([Output(label, label, 1.0)])
    return found


def known(part: Examples, label: str, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Values of a label where it is known under the task's policies, and the rows where it is."""
    values = part.labels.get(label, np.full(len(part), np.nan)).copy()
    policy: UncertainPolicy = task.uncertain.get(label, task.otherwise)
    empty = np.isnan(values)
    values[values == -1] = {"ignore": np.nan, "one": 1.0, "zero": 0.0}[policy]
    if task.empty_is_zero:
        values[empty] = 0.0
    index = np.flatnonzero(np.isfinite(values))
    return values[index], index


def truths(part: Examples, outputs: Sequence[Sequence[Output]], task: Task) -> np.ndarray:
    """NxC: 1, 0, or NaN where unknown."""
    columns = []
    for label in outputs:
        values, index = known(part, label[0].label, task)
        for output in label:
            column = np.full(len(part), np.nan)
            column[index] = values == output.value
            columns.append(column)
    return np.stack(columns, axis=1) if columns else np.zeros((len(part), 0))


def fraction_of(part: Examples, truth_NC: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows of a share of the patients, drawn by `seed`; at least one positive and one negative of each output.

    A seed's smaller share is part of its larger one.
    """
    if fraction >= 1.0:
        return np.arange(len(part))
    names = np.array(sorted(set(part.patients)))
    order = names[generator(seed, Purpose.LABEL_SHARE).permutation(len(names))]
    chosen = set(order[: max(1, round(fraction * len(names)))].tolist())
    rows = np.array([patient in chosen for patient in part.patients])
    rank = {patient: number for number, patient in enumerate(order)}
    place = np.array([rank[patient] for patient in part.patients])
    for column in truth_NC.T:
        for value in (1.0, 0.0):
            having = np.flatnonzero(column == value)
            if having.size and not rows[having].any():
                rows[having[place[having].argmin()]] = True
    return np.flatnonzero(rows)


def shots_of(part: Examples, truth_NC: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Rows with `shots` positives and as many negatives of each output, as far as there are so many."""
    rng = generator(seed, Purpose.SHOTS)
    chosen: set[int] = set()
    for column in truth_NC.T:
        for value in (1.0, 0.0):
            having = np.flatnonzero(column == value)
            chosen.update(rng.permutation(having)[:shots].tolist())
    return np.array(sorted(chosen), int)


def published_draw(part: Examples, name: str, role: Draw) -> np.ndarray:
    """Rows that a published few-shot draw names."""
    return np.array([at for at, value in enumerate(part.draws.get(name, ())) if value == role], int)


def joined(first: Examples, second: Examples) -> Examples:
    """Both, one after the other."""
    features = None
    if first.features is not None and second.features is not None:
        features = np.concatenate([first.features, second.features])
    return Examples(
        [*first.image_ids, *second.image_ids],
        [*first.patients, *second.patients],
        {name: np.concatenate([values, second.labels[name]]) for name, values in first.labels.items()},
        features,
        [*first.images, *second.images],
        {name: [*values, *second.masks[name]] for name, values in first.masks.items()},
        {name: [*values, *second.draws[name]] for name, values in first.draws.items()},
    )
