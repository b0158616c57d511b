"""The benchmarks that the field reports, one small declaration each, and a task for any other data set.

A task says which labels of which data set count, what uncertain and empty labels are taken for, which number is the
headline, and what one has to know of it. Splits are those of the shards: the owner's where there are any.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.settings import UncertainPolicy

Headline = Literal["auroc", "accuracy", "dice"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """data set x labels x metric."""

    name: str
    dataset: str
    labels: tuple[str, ...] = ()
    """Unset: every label of the data set."""
    organs: tuple[str, ...] = ()
    """Masks to segment; unset: every mask of the data set."""
    headline: Headline = "auroc"
    uncertain: dict[str, UncertainPolicy] = field(default_factory=dict)
    """What -1 counts as, by label."""
    otherwise: UncertainPolicy = "ignore"
    """What -1 counts as for other labels."""
    empty_is_zero: bool = False
    """Whether an empty cell is a no."""
    note: str = ""
    """What has to be said beside its numbers."""


CHEXPERT = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")

BENCHMARKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="vindr",
            dataset="vindr-cxr",
            labels=("copd", "lung_tumor", "pneumonia", "tuberculosis", "other_diseases", "no_finding"),
            note="6 global labels; majority of readers in train, their consensus in test; val is held out of train",
        ),
        Task(
            name="shenzhen",
            dataset="shenzhen",
            labels=("tuberculosis",),
            note="published with 134 test images: read the interval, not the digit",
        ),
        Task(
            name="nih14",
            dataset="nih14",
            labels=(
                *("atelectasis", "cardiomegaly", "consolidation", "edema", "effusion", "emphysema", "fibrosis"),
                *("hernia", "infiltration", "mass", "nodule", "pleural_thickening", "pneumonia", "pneumothorax"),
            ),
            note="the owner's split by patient; labels are mined from reports",
        ),
        Task(
            name="rsna",
            dataset="rsna",
            labels=("rsna_class",),
            headline="accuracy",
            note="3 classes; the images are NIH's, so pretraining on NIH has seen some of them",
        ),
        Task(
            name="rsna-opacity",
            dataset="rsna",
            organs=("opacity",),
            headline="dice",
            note="boxes as masks; predicting nothing scores .764 where empty on empty counts 1: read dice_positive",
        ),
        Task(
            name="chexpert",
            dataset="chexpert",
            labels=CHEXPERT,
            uncertain={name: "one" if name in ("atelectasis", "edema") else "zero" for name in CHEXPERT},
            empty_is_zero=True,
            note="official valid (200 patients) is the test split; validation comes from train, never from these",
        ),
        Task(
            name="siim",
            dataset="siim-acr",
            organs=("pneumothorax",),
            headline="dice",
            note="most images have no pneumothorax: read dice_positive beside dice",
        ),
        Task(
            name="chestdr",
            dataset="chestdr",
            note="1, 5 and 10 shots, the five published draws, are `--protocol fewshot`",
        ),
    )
}


def parse_tasks(text: str | None, datasets: list[str], otherwise: UncertainPolicy) -> list[Task]:
    """Tasks by name, comma-separated; unset: one for each data set, with all of its labels and masks.

    Raises:
        UserError: no such task, or its data set is not there.
    """
    if text is None:
        return [Task(name=name, dataset=name, otherwise=otherwise) for name in datasets]
    chosen = []
    for name in text.split(","):
        if name not in BENCHMARKS:
            raise UserError(f"--task {name}: no such task; there are {', '.join(BENCHMARKS)}")
        task = BENCHMARKS[name]
        if task.dataset not in datasets:
            raise UserError(f"--task {name}: needs data set {task.dataset}; here are {', '.join(datasets)}")
        chosen.append(task)
    return chosen


def learnable(labels: dict[str, dict[str, dict[str, dict[str, int]]]], splits: Sequence[str]) -> list[str]:
    """Of a manifest's counts of labels, those (data set/label) with two known values or more in each split."""

    def told(by_split: dict[str, dict[str, int]], split: str) -> bool:
        return len(by_split.get(split, {}).keys() - {"unknown", "-1"}) > 1

    return [
        f"{dataset}/{name}"
        for dataset, names in labels.items()
        for name, by_split in names.items()
        if all(told(by_split, split) for split in splits)
    ]
