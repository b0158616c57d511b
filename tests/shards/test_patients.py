"""Whose image it is: folders, headers that name nobody, and patients that have too many images to be one."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dicoms import dicom

from chexworld_ray.config import from_dict
from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.identify import identify
from chexworld_ray.shards.identity import HeaderIds, Pseudonyms
from chexworld_ray.shards.ingest import check_patient_folders, check_patient_rule, crowded_patients, make_chunks
from chexworld_ray.shards.manifest import Release
from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.settings import CleanSettings, WriteSettings
from chexworld_ray.shards.source import Source, SourceRow, pack
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.shards.writer import write_chunk
from chexworld_ray.storage import place

KEY = Pseudonyms(b"a key for tests")


def row_of(path: str, patient: str | None = None) -> SourceRow:
    return SourceRow(image_id=path, path=path, dataset="x", patient_id=patient)


def patient_of(path: str, header: HeaderIds | None = None) -> str:
    return identify(row_of(path), header, KEY, WriteSettings()).patient_id


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("files/p10/p10000032/s50414267/a.png", "p10000032"),  # MIMIC-CXR: p10 is a shelf
        ("p11/p11000002/a.png", "p11000002"),
        ("train/patient00001/study1/view1_frontal.png", "patient00001"),
        ("sub-01/ses-1/a.png", "sub-01"),
        ("Patient 7/a.png", "Patient 7"),
        ("p10/batch/a.png", "p10"),
        ("p10.png", "p10.png"),
        ("pneumonia/a.png", "pneumonia/a.png"),
    ],
)
def test_the_innermost_folder_named_like_a_patient_is_one(path: str, patient: str) -> None:
    assert patient_of(path) == patient


@pytest.mark.parametrize("said", ["nan", "NA", "None", " ", "-", "ANONYMOUS", "unknown"])
def test_a_header_that_names_nobody_makes_no_patient(tmp_path: Path, said: str) -> None:
    for number in range(3):
        data = dicom(make_phantom(5, number, 96).image_HW, PatientID=said, SOPInstanceUID=f"1.2.{number}")
        (tmp_path / f"{number}.dcm").write_bytes(data)
    source, out = read_source(str(tmp_path)), place(str(tmp_path / "out"))
    start, key = place(source.root), KEY
    record = write_chunk("01-00000", list(source), start, source.columns, WriteSettings(), key, out)
    assert len(set(record.images["patient_id"].to_pylist())) == 3
    flags = [row for file in record.files for row in pq.read_table(f"{out.path}/{file.path}")["flags"].to_pylist()]
    assert sum("patient_names_nobody" in of_image for of_image in flags) == (3 if said.strip() else 0), flags


def test_a_header_that_names_nobody_leaves_it_to_the_folder() -> None:
    assert patient_of("p7/a.dcm", HeaderIds(patient="nan")) == patient_of("p7/b.dcm", HeaderIds(patient="N/A"))
    assert patient_of("p7/a.dcm", HeaderIds(patient="nan")) != patient_of("p7/b.dcm", HeaderIds(patient="MRN-1"))


def images(counts: dict[str, int], dataset: str = "x") -> pa.Table:
    names = [(f"{patient}/{number}.png", patient) for patient, count in counts.items() for number in range(count)]
    columns = {"image_id": [name for name, _ in names], "patient_id": [patient for _, patient in names]}
    return pa.table(columns | {"dataset": [dataset] * len(names)})


@pytest.mark.parametrize(
    ("counts", "most"),
    [
        ({f"p{at}": 2 for at in range(300)} | {"secret": 201}, 201),  # more than a hundred times the median
        ({f"p{at}": 2 for at in range(15)} | {"secret": 31}, 31),  # more than half of all
        ({"secret": 60}, 60),
    ],
)
def test_a_patient_of_too_many_images_is_told_and_not_named(counts: dict[str, int], most: int) -> None:
    (told,) = crowded_patients(pa.concat_tables([images(counts), images({"p": 3}, "other")]))
    assert f"one patient has {most} of {sum(counts.values())} images" in told
    assert "secret/0.png" in told, "an image of it, by which it can be found"
    assert "secret" not in told.replace("'secret/0.png'", "")


@pytest.mark.parametrize(
    "counts", [{f"p{at}": 2 for at in range(300)} | {"p": 200}, {"p": 10}, {f"p{at}": 40 for at in range(2)}, {}]
)
def test_patients_of_usual_sizes_are_not_told(counts: dict[str, int]) -> None:
    assert crowded_patients(images(counts)) == []


def source_of(*rows: SourceRow) -> Source:
    return Source("", [pack(row) for row in rows], Columns())


def test_what_was_ingested_by_the_outermost_folder_gets_no_images_by_the_innermost() -> None:
    record = {"fingerprint": "a", "found": 1, "images": 1, "rejected": {}, "ignored": {}}  # as it was written then
    old, new = from_dict(Release, record, "a manifest"), Release("b", 1, 1, {}, {}, patient_rule=2)
    shelf = row_of("p10/p10000032/a.png")
    with pytest.raises(UserError, match=r"--append: data was ingested when the outermost .*; ingest all again, or"):
        check_patient_rule(source_of(row_of("a.png"), shelf), [old, new], "data")
    check_patient_rule(source_of(shelf), [new], "data")
    check_patient_rule(source_of(shelf), [], "data")
    alike = source_of(row_of("p1/a.png"), row_of("p1/p1/a.png"), replace(shelf, patient_id="7"))
    check_patient_rule(alike, [old], "data")


@pytest.mark.parametrize("inner", ["p1", "sub-2"])
def test_folders_that_would_make_one_patient_of_many_are_refused(inner: str) -> None:
    shelves = [row_of("p10/p10000032/a.png"), row_of("p10/p10000033/a.png"), row_of("p11/p11000001/s1/a.png")]
    check_patient_folders(source_of(*shelves, row_of("p1/a.png"), row_of("p1/b.png")))
    doubled = [row_of(f"patient{number:04}/{inner}/a.png") for number in range(3)]
    with pytest.raises(UserError, match=rf"folders named '{inner}' lie in several folders"):
        check_patient_folders(source_of(*doubled))
    check_patient_folders(source_of(*(replace(row, patient_id=row.path) for row in doubled)))


def test_a_data_set_of_the_first_programs_is_the_same_as_before() -> None:
    """The literal is what they made of this row."""
    (chunk,) = make_chunks(source_of(row_of("a.png", "7")), WriteSettings())
    assert chunk.fingerprint.startswith("4f7ad0bd5690d7e0")
    other = WriteSettings(clean=CleanSettings(body_parts=("CHEST",)))
    assert make_chunks(source_of(row_of("a.png", "7")), other)[0].fingerprint != chunk.fingerprint


def test_only_chunks_whose_patients_the_rule_decides_are_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingest that an older version began goes on with the others."""
    sources = [source_of(row_of("p10/p10000032/a.png")), source_of(row_of("p1/a.png"), row_of("a.png"))]
    now = [make_chunks(source, WriteSettings())[0].fingerprint for source in sources]
    monkeypatch.setattr("chexworld_ray.shards.ingest.PATIENT_RULE", 1)
    before = [make_chunks(source, WriteSettings())[0].fingerprint for source in sources]
    assert [one == other for one, other in zip(before, now, strict=True)] == [False, True]
