"""NIH ChestX-ray14: 112,120 frontal radiographs of 30,805 patients of the NIH Clinical Center.

Release: 2017, labels of 2017 or 2020. Layout: `images_001/images/00000001_000.png` … `images_012`, or one `images/`;
`Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, `train_val_list.txt`, `test_list.txt`, `BBox_List_2017.csv` (984
boxes; its header is broken by commas, and it calls Infiltration "Infiltrate"). Labels: 14 findings and No Finding, of
`Finding Labels` joined by `|`; mined from reports, complete: 1 or 0. Splits: the owner's lists, by patient; part of
the patients of `train_val_list.txt` becomes `val` by hash. Patient: Patient ID. Licence: no restrictions on use,
acknowledge the NIH Clinical Center; its pseudonyms are kept. Citation: Wang et al., ChestX-ray8, CVPR 2017.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns, Meta
from chexworld_ray.shards.source import TRAIN_VAL, Source, SourceRow
from chexworld_ray.shards.sources.listing import Listing, collect
from chexworld_ray.shards.sources.tables import label_name, number, owner_table, read_text

WHAT = "NIH ChestX-ray14"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
    "No Finding",
)
LABELS = tuple(label_name(name) for name in FINDINGS)
TABLES = ["Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"]
LISTS = {"train_val_list.txt": TRAIN_VAL, "test_list.txt": "test"}
BOXES = "BBox_List_2017.csv"
BOX_NAMES = {"infiltrate": "infiltration"}


def read_nih14(listing: Listing, skip_missing: bool) -> Source:
    """The rows of the entry table, one an image.

    Raises:
        UserError: a table or list is missing, or does not look like its owner's.
    """
    split = {
        name: split
        for file, split in LISTS.items()
        for name in read_text(listing.root / listing.need([file], WHAT)).split()
    }
    boxes = _boxes(listing)

    def rows() -> Iterator[SourceRow]:
        for row in owner_table(listing, TABLES, WHAT, ["Image Index", "Finding Labels", "Patient ID", "View Position"]):
            name = row["Image Index"]
            if name not in split:
                raise UserError(f"{listing.root.url}: {name} stands in neither of {', '.join(LISTS)}")
            yield _row(row, listing.find(name) or f"images/{name}", split[name], boxes[name])

    meta: Meta = (("age", "number"), ("sex", "text"), ("follow_up", "number"))
    return collect(listing, rows(), Columns(LABELS, (), meta), skip_missing, TABLES[0])


def _row(row: dict[str, str], path: str, split: str, boxes: list[dict[str, Any]]) -> SourceRow:
    found = {label_name(name) for name in row["Finding Labels"].split("|")}
    if unknown := found - set(LABELS):
        raise UserError(f"{WHAT}: {row['Image Index']} has the unknown finding {sorted(unknown)[0]!r}")
    sex = row.get("Patient Gender") or row.get("Patient Sex") or ""
    numbers = {
        "age": number(row.get("Patient Age", "").removesuffix("Y")),  # '058Y' in some copies
        "follow_up": number(row.get("Follow-up #", "")),
    }
    return SourceRow(
        image_id=row["Image Index"],
        path=path,
        dataset="nih14",
        patient_id=row["Patient ID"],
        view=row["View Position"] or None,
        split=split,
        labels={label: float(label in found) for label in LABELS},
        meta={name: value for name, value in numbers.items() if value is not None} | ({"sex": sex} if sex else {}),
        boxes=boxes,
        published=True,
    )


def _boxes(listing: Listing) -> dict[str, list[dict[str, Any]]]:
    """Boxes of each image; none where the owner's file was not downloaded."""
    boxes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    if listing.find(BOXES) is None:
        return boxes
    for row in owner_table(listing, [BOXES], WHAT, ["Image Index", "Finding Label"]):
        name, label, *sides = list(row.values())[:6]
        values = [number(side) for side in sides]
        if len(values) != 4:
            raise UserError(f"{BOXES}: the box of {name} is {', '.join(sides)}, not x, y, width and height")
        values = [math.nan if value is None else value for value in values]  # such a box sets its image aside
        label = label_name(label)
        boxes[name].append({"label": BOX_NAMES.get(label, label), **dict(zip("xywh", values, strict=True))})
    return boxes
