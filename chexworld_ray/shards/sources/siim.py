"""SIIM-ACR Pneumothorax Segmentation 2019: 12,047 frontal radiographs (DICOM), out of NIH ChestX-ray14.

Release: stage 1, as distributed by the challenge. Layout: `dicom-images-train/<study>/<series>/<ImageId>.dcm`;
`train-rle.csv` with ImageId and " EncodedPixels" (the name starts with a blank): relative run lengths, column-major,
of 1024 x 1024 pixels, `-1` for no pneumothorax; several rows are several regions of one image. Labels:
`pneumothorax`. Masks: `pneumothorax`, empty where there is none. Splits: none by the owner, hence by hash of the
patient. Patient: the DICOM header's PatientID, a pseudonym of the publisher, which is kept. Licence: the challenge's
terms, non-commercial research and education. Citation: Filice et al., Crowdsourcing pneumothorax annotations using
machine learning annotations on the NIH chest X-ray dataset, Journal of Digital Imaging 2020.
"""

from collections import defaultdict
from collections.abc import Iterator

from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.source import MaskSource, Source, SourceRow
from chexworld_ray.shards.sources.listing import Listing, collect
from chexworld_ray.shards.sources.tables import owner_table

WHAT = "SIIM-ACR Pneumothorax"
TABLE = "train-rle.csv"
SIZE = (1024, 1024)
NONE = "-1"


def read_siim(listing: Listing, skip_missing: bool) -> Source:
    """One row for each image of the run-length table.

    Raises:
        UserError: the table is missing, or does not look like its owner's.
    """
    runs: dict[str, list[str]] = defaultdict(list)
    for row in owner_table(listing, [TABLE], WHAT, ["ImageId", "EncodedPixels"]):
        of_image = runs[row["ImageId"]]
        if row["EncodedPixels"] not in ("", NONE):
            of_image.append(row["EncodedPixels"])

    def rows() -> Iterator[SourceRow]:
        for image, texts in runs.items():
            yield SourceRow(
                image_id=image,
                path=listing.find(f"{image}.dcm") or f"dicom-images-train/{image}.dcm",
                dataset="siim-acr",
                masks={"pneumothorax": MaskSource("runs", tuple(texts), SIZE)},
                labels={"pneumothorax": float(bool(texts))},
                published=True,
            )

    return collect(listing, rows(), Columns(("pneumothorax",), ("pneumothorax",)), skip_missing, TABLE)
