"""MIMIC-CXR-JPG 2.x: 377,110 radiographs of 65,379 patients of Beth Israel Deaconess Medical Center, Boston.

Release: 2.0.0 and 2.1.0 (PhysioNet). Layout: `files/p10/p10000032/s50414267/<dicom_id>.jpg`; tables, gzipped or not,
`mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}.csv.gz`, joined on dicom_id (metadata, split) and on subject_id and
study_id (labels). Labels: 14, by the CheXpert labeller, as they are: 1, 0, -1 uncertain, empty unknown; NegBio's are
not read. Release 2.1.0 adds `mimic-cxr-2.1.0-test-set-labeled.csv`, radiologists' labels of 687 test studies by
study_id alone; they become `radiologist_<label>` (its "Airspace Opacity" is `lung_opacity`). Splits: train, validate
(val), test, by patient. Patient: subject_id. Licence: PhysioNet Credentialed Health Data License 1.5.0; its
pseudonyms are kept. Citation: Johnson et al., MIMIC-CXR-JPG, a large publicly available database of labeled chest
radiographs, 2019.
"""

from collections.abc import Iterator

from chexworld_ray.errors import UserError
from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.source import Source, SourceRow
from chexworld_ray.shards.sources.listing import Listing, collect
from chexworld_ray.shards.sources.tables import cells, label_name, number, owner_table, read_table

WHAT = "MIMIC-CXR-JPG"
CHEXPERT_LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
LABELS = tuple(label_name(name) for name in CHEXPERT_LABELS)
SPLITS = {"train": "train", "validate": "val", "test": "test"}
OF_RADIOLOGISTS = {"Airspace Opacity": "lung_opacity"}


def read_mimic(listing: Listing, skip_missing: bool) -> Source:
    """The rows of the metadata table, one an image.

    Raises:
        UserError: a table is missing, or does not look like its owner's.
    """
    split = {row["dicom_id"]: row["split"] for row in _table(listing, "split", ["dicom_id", "split"])}
    columns = ["subject_id", "study_id", *CHEXPERT_LABELS]
    labels = {
        (row["subject_id"], row["study_id"]): _labels(row, dict(zip(CHEXPERT_LABELS, LABELS, strict=True)))
        for row in _table(listing, "chexpert", columns)
    }
    radiologists = _radiologists(listing)
    names = LABELS + (tuple(f"radiologist_{name}" for name in LABELS) if radiologists else ())

    def rows() -> Iterator[SourceRow]:
        for row in _table(listing, "metadata", ["dicom_id", "subject_id", "study_id", "ViewPosition"]):
            image, subject, study = row["dicom_id"], row["subject_id"], row["study_id"]
            if split.get(image, "") not in SPLITS:
                raise UserError(f"{listing.root.url}: the split table says {split.get(image)!r} of {image}")
            yield SourceRow(
                image_id=image,
                path=f"files/p{subject[:2]}/p{subject}/s{study}/{image}.jpg",
                dataset="mimic-cxr-jpg",
                patient_id=subject,
                study_id=study,
                view=row["ViewPosition"] or None,
                split=SPLITS[split[image]],
                labels=labels.get((subject, study), {}) | radiologists.get(study, {}),
                published=True,
            )

    return collect(listing, rows(), Columns(names), skip_missing, f"{WHAT}'s metadata table")


def _table(listing: Listing, kind: str, columns: list[str]) -> Iterator[dict[str, str]]:
    names = [f"mimic-cxr-2.{minor}.0-{kind}.csv{suffix}" for minor in (1, 0) for suffix in ("", ".gz")]
    return owner_table(listing, names, WHAT, columns)


def _labels(row: dict[str, str], names: dict[str, str]) -> dict[str, float]:
    values = {label: number(row.get(name, "")) for name, label in names.items()}
    return {label: value for label, value in values.items() if value is not None}


def _radiologists(listing: Listing) -> dict[str, dict[str, float]]:
    """study_id → labels; empty where the release has none."""
    files = listing.matching(r"mimic-cxr-2\.\d\.0-test-set-labeled\.csv(\.gz)?")
    if not files:
        return {}
    table = read_table(listing.root / files[0])
    known = {name: OF_RADIOLOGISTS.get(name, label_name(name)) for name in table.column_names}
    names = {name: f"radiologist_{label}" for name, label in known.items() if label in LABELS}
    return {row["study_id"]: _labels(row, names) for row in cells(table)}
