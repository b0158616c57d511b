"""The two tuberculosis sets of the U.S. National Library of Medicine: Shenzhen and Montgomery.

Shenzhen: 662 frontal radiographs of Shenzhen No. 3 People's Hospital, China. Layout: `CXR_png/CHNCXR_0001_0.png`,
last digit 1 = tuberculosis; `ClinicalReadings/CHNCXR_0001_0.txt` (sex, age, finding); lung masks of 566 images by
Stirenko et al., `mask/CHNCXR_0001_0_mask.png`. Montgomery: 138 frontal radiographs of Montgomery County, Maryland.
Layout: `CXR_png/MCUCXR_0001_0.png`, `ClinicalReadings/`, `ManualMask/{leftMask,rightMask}/`; masks `left_lung`,
`right_lung` and their union `lung`. Labels of both: `tuberculosis`. Splits: none by the owner, hence by hash.
Patient: each image is its own. Licence: free for research, acknowledge the National Library of Medicine. Citation:
Jaeger et al., Two public chest X-ray datasets for computer-aided screening of pulmonary diseases, Quantitative
Imaging in Medicine and Surgery 2014.
"""

import re
from collections.abc import Iterator

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns, Meta
from chexworld_ray.shards.source import MaskSource, Source, SourceRow, picture_masks
from chexworld_ray.shards.sources.listing import Listing, collect
from chexworld_ray.shards.sources.tables import LARGEST
from chexworld_ray.storage import Place, fetch_named

META: Meta = (("sex", "text"), ("age", "number"), ("finding", "text"))
_SEX = re.compile(r"(?i)\b(female|male|f|m)\b")
_AGE = re.compile(r"(?i)(\d+)\s*(y|m|d)?")
_FIELDS = re.compile(r"(?i)patient'?s\s+(?:sex|age)\s*:?")
_OF_YEAR = {"y": 1.0, "m": 12.0, "d": 365.25}


def read_shenzhen(listing: Listing, skip_missing: bool) -> Source:
    """One row for each CHNCXR picture.

    Raises:
        UserError: there is none.
    """

    def masks(name: str) -> dict[str, MaskSource]:
        return picture_masks({"lung": listing.find(f"{name}_mask.png")})

    rows = (
        _row(listing, path, "shenzhen", masks(path.rsplit("/", 1)[-1].removesuffix(".png")))
        for path in _pictures(listing, "CHNCXR", "the Shenzhen set")
    )
    return collect(listing, rows, Columns(("tuberculosis",), ("lung",), META), skip_missing, listing.root.url)


def read_montgomery(listing: Listing, skip_missing: bool) -> Source:
    """One row for each MCUCXR picture.

    Raises:
        UserError: there is none.
    """

    def rows() -> Iterator[SourceRow]:
        for path in _pictures(listing, "MCUCXR", "the Montgomery set"):
            name = path.rsplit("/", 1)[-1]
            sides = {f"{side}_lung": listing.find(name, f"{side}Mask") for side in ("left", "right")}
            yield _row(listing, path, "montgomery", picture_masks(sides))

    columns = Columns(("tuberculosis",), ("lung", "left_lung", "right_lung"), META)
    return collect(listing, rows(), columns, skip_missing, listing.root.url)


def _pictures(listing: Listing, prefix: str, what: str) -> list[str]:
    """Paths of an owner's pictures, masks left out."""
    named = listing.matching(rf"{prefix}_\d+_[01]\.png")
    paths = [path for path in named if not any("mask" in folder for folder in path.lower().split("/")[-2:-1])]
    if not paths:
        raise UserError(f"{listing.root.url}: no {prefix}_0001_0.png or the like below it; a folder of {what} has them")
    return paths


def _row(listing: Listing, path: str, dataset: str, masks: dict[str, MaskSource]) -> SourceRow:
    name = path.rsplit("/", 1)[-1].removesuffix(".png")
    reading = listing.find(f"{name}.txt", "ClinicalReadings")
    return SourceRow(
        image_id=name,
        path=path,
        dataset=dataset,
        patient_id=name,
        view="frontal",
        masks=masks,
        labels={"tuberculosis": float(name[-1])},
        meta=parse_reading(_text(listing.root / reading)) if reading else {},
        published=True,
    )


def _text(file: Place) -> str:
    """A reading; in some a byte is no UTF-8, and they are of doctors, who can't be asked again."""
    return fetch_named(file, LARGEST).decode("utf-8", "replace")


def parse_reading(text: str) -> dict[str, float | str]:
    """Sex (F or M), age in years and finding of a reading: 'male 45yrs', or "Patient's Sex: F" lines; then text."""
    lines = [line.strip() for line in text.replace("\ufeff", "").splitlines() if line.strip()]
    about = [line for line in lines[:2] if _FIELDS.search(line)] or lines[:1]
    said = _FIELDS.sub(" ", " ".join(about))
    sex, age = _SEX.search(said), _AGE.search(said)
    finding = " ".join(lines[len(about) :]).strip()
    meta: dict[str, float | str] = {"finding": finding} if finding else {}
    if sex:
        meta["sex"] = sex.group(1)[0].upper()
    if age:
        meta["age"] = round(float(age.group(1)) / _OF_YEAR[(age.group(2) or "y").lower()], 3)
    return meta
