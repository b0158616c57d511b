"""VinDr-CXR 1.0: 18,000 frontal radiographs (DICOM) of two hospitals in Hanoi.

Release: 1.0.0 (PhysioNet). Layout: `train/<image_id>.dicom`, `test/<image_id>.dicom`;
`annotations/image_labels_{train,test}.csv` (train: three rows an image, one for each reader `rad_id`; test: one row,
their consensus), `annotations/annotations_{train,test}.csv` (boxes). Labels: 28 (22 local, 6 global); in train what
the majority of an image's readers says, -1 where they are even. Boxes: of every reader, labelled by class. Splits:
the owner's test; part of train becomes `val` by hash. Patient: not told; each image is its own. Licence: PhysioNet
Credentialed Health Data License 1.5.0; its pseudonyms are kept. Citation: Nguyen et al., VinDr-CXR: an open dataset
of chest X-rays with radiologist's annotations, Scientific Data 2022.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.source import TRAIN_VAL, Source, SourceRow
from chexworld_ray.shards.sources.listing import Listing, collect
from chexworld_ray.shards.sources.tables import label_name, number, owner_table

WHAT = "VinDr-CXR"
SPLITS = {"train": TRAIN_VAL, "test": "test"}
KEYS = {"image_id", "rad_id"}


def read_vindr(listing: Listing, skip_missing: bool) -> Source:
    """One row for each image of the label tables.

    Raises:
        UserError: a table is missing, or does not look like its owner's.
    """
    votes = {split: _votes(listing, split) for split in SPLITS}
    names = {name for images in votes.values() for labels in images.values() for name in labels}
    boxes = {split: _boxes(listing, split) for split in SPLITS}

    def rows() -> Iterator[SourceRow]:
        for split, images in votes.items():
            for image, labels in images.items():
                yield SourceRow(
                    image_id=image,
                    path=listing.find(f"{image}.dicom", split) or f"{split}/{image}.dicom",
                    dataset="vindr-cxr",
                    patient_id=image,
                    split=SPLITS[split],
                    labels={name: _majority(said) for name, said in labels.items()},
                    boxes=boxes[split][image],
                    published=True,
                )

    return collect(listing, rows(), Columns(tuple(sorted(names))), skip_missing, "image_labels_{train,test}.csv")


def _votes(listing: Listing, split: str) -> dict[str, dict[str, list[float]]]:
    """image → label → what each reader says."""
    images: dict[str, dict[str, list[float]]] = {}
    for row in owner_table(listing, [f"image_labels_{split}.csv"], WHAT, ["image_id"]):
        labels = images.setdefault(row["image_id"], defaultdict(list))
        for name, cell in row.items():
            if name not in KEYS and not name.startswith("#") and (value := number(cell)) is not None:
                labels[label_name(name)].append(value)
    return images


def _majority(said: list[float]) -> float:
    part = sum(said) / len(said)
    return -1.0 if part == 0.5 else float(part > 0.5)


def _boxes(listing: Listing, split: str) -> dict[str, list[dict[str, Any]]]:
    """Boxes of each image; none where the owner's file was not downloaded."""
    boxes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    name = f"annotations_{split}.csv"
    if listing.find(name) is None:
        return boxes
    corners = ["x_min", "y_min", "x_max", "y_max"]
    for row in owner_table(listing, [name], WHAT, ["image_id", "class_name", *corners]):
        found = [number(row[corner]) for corner in corners]
        if None in found and label_name(row["class_name"]) == "no_finding":
            continue
        x0, y0, x1, y1 = (math.nan if value is None else value for value in found)  # such a box sets its image aside
        boxes[row["image_id"]].append(
            {"label": label_name(row["class_name"]), "x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0}
        )
    return boxes
