"""MedFMC ChestDR: 4,848 frontal radiographs with 19 thoracic findings, and published few-shot draws.

Release: MedFMC 2023. Layout: `images/*.png`; `chest_{1,5,10}-shot_{train,val}_exp{1..5}.txt`, `test.txt` and, where
the release has it, `trainval.txt`: lines `name l1,…,l19`. Labels: 19, complete: 1 or 0. Splits: `test.txt` is test;
part of the other images becomes `val` by hash. Draws: column `meta_shot_<k>_exp<e>` says `train` or `val` where the
image belongs to that draw. Patient: not told; each image is its own. Licence: CC BY 4.0. Citation: Wang et al., A
real-world dataset and benchmark for foundation model adaptation in medical image classification, Scientific Data
2023.
"""

import re
from collections import defaultdict
from collections.abc import Iterator

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns, Meta
from chexworld_ray.shards.source import TRAIN_VAL, Source, SourceRow
from chexworld_ray.shards.sources.listing import Listing, collect
from chexworld_ray.shards.sources.tables import read_text

WHAT = "MedFMC ChestDR"
LABELS = (
    "pleural_effusion",
    "nodule",
    "pneumonia",
    "cardiomegaly",
    "hilar_enlargement",
    "fracture_old",
    "fibrosis",
    "aortic_calcification",
    "tortuous_aorta",
    "thickened_pleura",
    "tuberculosis",
    "pneumothorax",
    "emphysema",
    "atelectasis",
    "calcification",
    "pulmonary_edema",
    "increased_lung_markings",
    "elevated_diaphragm",
    "consolidation",
)
TEST, TRAINVAL = "test.txt", "trainval.txt"
SHOTS = re.compile(r"chest_(\d+)-shot_(train|val)_exp(\d+)\.txt")


def read_chestdr(listing: Listing, skip_missing: bool) -> Source:
    """One row for each image that a list names.

    Raises:
        UserError: a list is missing, or does not look like its owner's.
    """
    labels: dict[str, tuple[float, ...]] = {}
    split: dict[str, str] = {}
    draws: dict[str, dict[str, float | str]] = defaultdict(dict)
    lists = listing.matching(SHOTS.pattern)
    for path in [listing.need([TEST], WHAT), *listing.matching(re.escape(TRAINVAL)), *lists]:
        file = path.rsplit("/", 1)[-1]
        draw = SHOTS.fullmatch(file)
        for name, values in _lines(listing, path):
            if labels.setdefault(name, values) != values:
                raise UserError(f"{path}: {name} has other labels than in the lists before")
            if split.setdefault(name, "test" if file == TEST else TRAIN_VAL) == "test" and file != TEST:
                raise UserError(f"{path}: {name} is a test image")
            if draw:
                draws[name][f"shot_{draw[1]}_exp{draw[3]}"] = draw[2]
    shots = sorted({f"shot_{draw[1]}_exp{draw[3]}" for path in lists if (draw := SHOTS.search(path))})

    def rows() -> Iterator[SourceRow]:
        for name, values in labels.items():
            yield SourceRow(
                image_id=name,
                path=listing.find(name, "images") or f"images/{name}",
                dataset="chestdr",
                patient_id=name,
                split=split[name],
                labels=dict(zip(LABELS, values, strict=True)),
                meta=draws[name],
                published=True,
            )

    meta: Meta = tuple((shot, "text") for shot in shots)
    return collect(listing, rows(), Columns(LABELS, (), meta), skip_missing, "the owner's lists")


def _lines(listing: Listing, path: str) -> Iterator[tuple[str, tuple[float, ...]]]:
    for number, line in enumerate(read_text(listing.root / path).splitlines(), start=1):
        if not line.strip():
            continue
        name, _, text = line.strip().rpartition(" ")
        values = text.split(",")
        if not name or len(values) != len(LABELS) or set(values) - {"0", "1"}:
            raise UserError(f"{path}: line {number} is not a name and {len(LABELS)} labels of 0 or 1")
        yield name, tuple(float(value) for value in values)
