"""RSNA Pneumonia Detection Challenge 2018: 26,684 labelled frontal radiographs (DICOM), out of NIH ChestX-ray14.

Release: stage 2. Layout: `stage_2_train_images/<patientId>.dcm`; `stage_2_train_labels.csv` (patientId, x, y, width,
height, Target: one row for each box, so several an image), `stage_2_detailed_class_info.csv` (patientId, class).
Labels: `pneumonia` (Target) and `rsna_class`: 0 Normal, 1 No Lung Opacity / Not Normal, 2 Lung Opacity. Boxes:
`lung_opacity`; filled they are `mask_opacity`, empty where there is none. Splits: none by the owner, hence by hash of
the patient. Patient: patientId. Licence: the challenge's terms, non-commercial research and education; its pseudonyms
are kept. Citation: Shih et al., Augmenting the NIH chest radiograph dataset with expert annotations of possible
pneumonia, Radiology: AI 2019.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.source import MaskSource, Source, SourceRow
from chexworld_ray.shards.sources.listing import Listing, collect
from chexworld_ray.shards.sources.tables import number, owner_table

WHAT = "RSNA Pneumonia"
TABLE, CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
IMAGES = "stage_2_train_images"
CLASS_INDEX = {"Normal": 0.0, "No Lung Opacity / Not Normal": 1.0, "Lung Opacity": 2.0}


def read_rsna(listing: Listing, skip_missing: bool) -> Source:
    """One row for each patient (image) of the label table.

    Raises:
        UserError: a table is missing, or does not look like its owner's.
    """
    classes: dict[str, str] = {}
    for row in owner_table(listing, [CLASSES], WHAT, ["patientId", "class"]):
        if row["class"] not in CLASS_INDEX:
            raise UserError(f"{CLASSES}: {row['patientId']} has the unknown class {row['class']!r}")
        classes[row["patientId"]] = row["class"]
    targets: dict[str, float] = {}
    boxes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in owner_table(listing, [TABLE], WHAT, ["patientId", "x", "y", "width", "height", "Target"]):
        targets[row["patientId"]] = float(row["Target"] == "1")
        values = [number(row[name]) for name in ("x", "y", "width", "height")]
        if None not in values:
            boxes[row["patientId"]].append({"label": "lung_opacity", **dict(zip("xywh", values, strict=True))})

    def rows() -> Iterator[SourceRow]:
        for patient, target in targets.items():
            of_class = {"rsna_class": CLASS_INDEX[classes[patient]]} if patient in classes else {}
            yield SourceRow(
                image_id=patient,
                path=listing.find(f"{patient}.dcm", IMAGES) or f"{IMAGES}/{patient}.dcm",
                dataset="rsna",
                patient_id=patient,
                masks={"opacity": MaskSource("boxes")},
                labels={"pneumonia": target, **of_class},
                boxes=boxes[patient],
                published=True,
            )

    return collect(listing, rows(), Columns(("pneumonia", "rsna_class"), ("opacity",)), skip_missing, TABLE)
