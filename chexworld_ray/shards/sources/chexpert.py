"""CheXpert v1.0, full and small: 224,316 radiographs of 65,240 patients of Stanford Hospital.

Release: CheXpert-v1.0 and CheXpert-v1.0-small. Layout: `train/patient00001/study1/view1_frontal.jpg`, `train.csv`,
`valid.csv`; or in batches, as Stanford AIMI ships it now: `CheXpert-v1.0 batch 1 (validate & csv)` with the tables and
`valid/`, `… batch 2 (train 1)` to `… batch 4 (train 3)` with the other patients and no `train/` above them. Column
`Path` starts with the release's folder name, whatever the folder is called now; an image is known by what follows it
(`train/patient…`), wherever it lies. Labels: 14 columns, as they are: 1, 0, -1 uncertain, empty unknown. Splits:
`valid.csv`, 200 patients labelled by radiologists, is `test` (the literature reports on it); part of the patients of
`train.csv` becomes `val` by hash. Patient and study: from Path. Licence: Stanford University Dataset Research Use
Agreement; its pseudonyms are kept. Citation: Irvin et al., CheXpert: a large chest radiograph dataset with uncertainty
labels and expert comparison, AAAI 2019.
"""

import re
from collections.abc import Iterator

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns, Meta
from chexworld_ray.shards.source import TRAIN_VAL, Source, SourceRow
from chexworld_ray.shards.sources.listing import Listing, collect
from chexworld_ray.shards.sources.mimic import CHEXPERT_LABELS, LABELS
from chexworld_ray.shards.sources.tables import number, owner_table

WHAT = "CheXpert"
_IMAGE = re.compile(r"(?:(?<![^/])(?:train|valid)/)?(?<![^/])patient\d+/study\d+/[^/]+$")
SPLITS = {"train.csv": TRAIN_VAL, "valid.csv": "test"}


def read_chexpert(listing: Listing, skip_missing: bool) -> Source:
    """The rows of train.csv and valid.csv.

    Raises:
        UserError: a table is missing, or does not look like its owner's.
    """
    elsewhere = _elsewhere(listing)

    def rows() -> Iterator[SourceRow]:
        for name, split in SPLITS.items():
            base = listing.need([name], WHAT).removesuffix(name)
            for row in owner_table(listing, [name], WHAT, ["Path", "Frontal/Lateral", *CHEXPERT_LABELS]):
                yield _row(row, base, listing, elsewhere, split)

    meta: Meta = (("sex", "text"), ("age", "number"))
    return collect(listing, rows(), Columns(LABELS, (), meta), skip_missing, "train.csv and valid.csv")


def _elsewhere(listing: Listing) -> dict[str, str]:
    """The end of each image's path, from its split's folder or, where it lies in none, its patient's → path; of several
    with one end the first by spelling.
    """
    found: dict[str, str] = {}
    for path in sorted(listing.paths):
        if (end := _IMAGE.search(path)) is not None:
            found.setdefault(end[0], path)
    return found


def _row(row: dict[str, str], base: str, listing: Listing, elsewhere: dict[str, str], split: str) -> SourceRow:
    parts = row["Path"].split("/")
    if len(parts) < 4 or not parts[-3].startswith("patient"):
        raise UserError(f"CheXpert: Path {row['Path']!r} is not <release>/<split>/patient…/study…/view…")
    inside = "/".join(parts[-4:])
    path = base + inside
    if path not in listing.paths:
        path = elsewhere.get(inside) or elsewhere.get("/".join(parts[-3:]), path)
    values = {label: number(row[name]) for name, label in zip(CHEXPERT_LABELS, LABELS, strict=True)}
    age = number(row.get("Age", ""))
    meta: dict[str, float | str] = {"sex": row["Sex"]} if row.get("Sex") else {}
    return SourceRow(
        image_id=inside,
        path=path,
        dataset="chexpert",
        patient_id=parts[-3],
        study_id=f"{parts[-3]}/{parts[-2]}",
        view=f"{row['Frontal/Lateral']} {row.get('AP/PA', '')}" if row["Frontal/Lateral"] == "Frontal" else "Lateral",
        split=split,
        labels={label: value for label, value in values.items() if value is not None},
        meta=meta | ({"age": age} if age is not None else {}),
        published=True,
    )
