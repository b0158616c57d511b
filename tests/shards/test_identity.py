"""Who an image is of is told nowhere: not by paths of DICOM files, not by texts of a table, not by what is rejected."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dicoms import dicom, sequence
from pydicom import dcmread
from pydicom.sequence import Sequence

from chexworld_ray.cli import main
from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.identify import rejected_aside
from chexworld_ray.shards.identity import KEY_VARIABLE, Pseudonyms
from chexworld_ray.shards.ingest import make_chunks
from chexworld_ray.shards.manifest import REJECTED, KeyRecord, Manifest, load
from chexworld_ray.shards.originals import originals
from chexworld_ray.shards.records import ChunkRecord, save_record
from chexworld_ray.shards.rejected import largest_file
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source, kept_columns
from chexworld_ray.shards.sources.listing import list_files
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.shards.writer import write_chunk
from chexworld_ray.storage import place

KEY = Pseudonyms(b"a key for tests")
WriteSet = Callable[[Source, Path, WriteSettings], Manifest]

# where a header says it, how it is said, and how a folder or a cell repeats it
TOLD: dict[str, tuple[dict[str, Any], str]] = {
    "another name": ({"OtherPatientNames": "Quixworth^Ada"}, "quixworth"),
    "a birth name": ({"PatientBirthName": "Zylberman"}, "Zylberman 2"),
    "a mother": ({"PatientMotherBirthName": "Okonkwo"}, "child of Okonkwo"),
    "another id in a sequence": (
        {"OtherPatientIDsSequence": Sequence([sequence(PatientID="SEQ-99812")])},
        "SEQ-99812",
    ),
    "a study's number": ({"StudyID": "ST-55120"}, "st-55120"),
    "a birth date written otherwise": ({"PatientBirthDate": "19610203"}, "born 3 Feb 1961"),
    "a birth date in another order": ({"PatientBirthDate": "19610203"}, "03.02.1961"),
    "a name in one word": ({"PatientName": "Featherstone^Wilma"}, "wilmafeatherstone"),
    "a name without its umlaut": ({"PatientName": "Müßler^Jörg"}, "Muessler"),
    "a name without its accents": ({"PatientName": "Núñez^Álvaro"}, "nunez"),
    "a telephone": ({"PatientTelephoneNumbers": "5550142-77"}, "call 5550142-77"),
    "an address": ({"PatientAddress": "Quarry Lane 12"}, "Quarry Lane 12"),
    "the name before patients were merged": (
        {
            "OriginalAttributesSequence": Sequence(
                [sequence(ModifiedAttributesSequence=Sequence([sequence(PatientName="Thistlewood^Ida")]))]
            )
        },
        "thistlewood",
    ),
    "a name behind a long sequence": (
        {
            "PatientName": "Ravensdale^Otto",
            "ReferencedImageSequence": Sequence(
                [sequence(ReferencedSOPClassUID="1.2.3", ReferencedSOPInstanceUID=f"1.2.{at}") for at in range(1001)]
            ),
        },
        "ravensdale",
    ),
    "a physician": ({"ReferringPhysicianName": "Refdoc^Y"}, "said by Refdoc"),
}


def file(number: int = 0, private: str | None = None, **header: Any) -> bytes:
    """A DICOM file of a phantom."""
    data = dicom(make_phantom(5, number, 96).image_HW, **header)
    if private is None:
        return data
    read = dcmread(io.BytesIO(data))
    read.private_block(0x0011, "HOSPITAL", create=True).add_new(1, "LO", private)
    out = io.BytesIO()
    read.save_as(out)
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def chunks(source: Source, out: Path, settings: WriteSettings | None = None) -> list[ChunkRecord]:
    """The files and records of an ingest without Ray."""
    settings = settings or WriteSettings()
    records = []
    for chunk in make_chunks(source, settings):
        start = place(source.root)
        records.append(
            write_chunk(f"01-{chunk.index:05d}", chunk.rows, start, source.columns, settings, KEY, place(str(out)))
        )
        save_record(place(str(out / f"{chunk.index}.arrow")), records[-1])
    return records


def rows_of(out: Path) -> list[dict[str, object]]:
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def everything(out: Path) -> str:
    """All that was written, texts of compressed columns as well."""
    raw = b"".join(path.read_bytes() for path in out.iterdir() if path.suffix == ".arrow").decode("latin-1")
    return (raw + repr([{**row, "image": None} for row in rows_of(out)])).casefold()


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # pydicom doubts what the test writes
def test_no_folder_or_file_name_of_a_hospital_is_written(tmp_path: Path) -> None:
    cut = file(3)[:600]
    folder = write(
        tmp_path / "in",
        {
            **{f"{said}/{at}.dcm": file(at, **header) for at, (header, said) in enumerate(TOLD.values())},
            "PRIV8812X/a.dcm": file(1, private="PRIV8812X"),
            "never in the header Grünewald/b.dcm": file(2),
            "cut Grünewald/c.dcm": cut,
            "ct Grünewald/d.dcm": file(4, Modality="CT"),
            "shoulder Grünewald/e.dcm": file(5, BodyPartExamined="GRÜNEWALD"),
            "no picture Grünewald/f.dcm": b"no DICOM either",
            "photo Grünewald/g.png": b"no picture",
            "scan.Grune": file(6, PatientID="x"),
        },
    )
    records = chunks(read_source(str(folder)), tmp_path / "out")
    told = everything(tmp_path / "out")
    for word in [*(said for _, said in TOLD.values()), "priv8812x", "grün", "grun", "quixworth", "refdoc"]:
        assert word.casefold() not in told, word
    assert sum(record.images.num_rows + len(record.rejected) for record in records) == len(TOLD) + 8
    assert all(record.keyed == record.images.num_rows for record in records)


@pytest.mark.parametrize("what", TOLD)
def test_a_cell_that_repeats_a_header_is_replaced(what: str, tmp_path: Path) -> None:
    header, said = TOLD[what]
    folder = write(tmp_path / "in", {"a.dcm": file(**header)})
    (folder / "labels.csv").write_text(f"path,wording,site\na.dcm,{said},lakeside\n")
    chunks(read_source(str(folder), labels="labels.csv", keep_columns=("wording",)), tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["meta_wording"] == KEY.name("meta", said)
    assert row["meta_site"] == "lakeside", "what the header does not tell stays"


def test_a_cell_that_repeats_the_path_is_replaced(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"Grünewald/scan17.dcm": file()})
    (folder / "labels.csv").write_text("path,original,kind\nGrünewald/scan17.dcm,/mnt/pacs/scan17.dcm,portable\n")
    chunks(read_source(str(folder), labels="labels.csv"), tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["meta_original"] == KEY.name("meta", "/mnt/pacs/scan17.dcm")
    assert row["meta_kind"] == "portable"


def test_a_table_is_joined_by_path_before_paths_become_hashes(tmp_path: Path) -> None:
    files = {f"Grünewald/{at}.dcm": file(at, PatientID=f"p{at}") for at in range(3)}
    folder = write(tmp_path / "in", files)
    (folder / "labels.csv").write_text(
        "path,split,opacity\n" + "".join(f"{p},test,{p[-5]}\n" for p in sorted(files)[:2])
    )
    source = read_source(str(folder), labels="labels.csv")
    chunks(source, tmp_path / "out")
    wanted = {KEY.path(f"Grünewald/{at}.dcm"): float(at) for at in range(2)}
    assert {row["image_id"]: row["label_opacity"] for row in rows_of(tmp_path / "out")} == wanted
    assert "image_id from path 2" in kept_columns(source)
    chunks(source, tmp_path / "again")
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "out"), "an ingest that goes on gives the same names"


def test_paths_are_kept_where_the_user_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"P-7/a.dcm": file(), "P-7/b.png": b"no picture"})
    (record,) = chunks(read_source(str(folder)), tmp_path / "out", WriteSettings(keep_paths=True))
    (row,) = rows_of(tmp_path / "out")
    assert row["image_id"] == row["source_path"] == "P-7/a.dcm"
    assert row["patient_id"] != "MRN-0042-7781", "ids of the header are hashed all the same"
    assert [one.source_path for one in record.rejected] == ["P-7/b.png"]


def test_pictures_alone_keep_their_paths(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"x/a.png": b"no picture"})
    (record,) = chunks(read_source(str(folder)), tmp_path / "out")
    assert [one.source_path for one in record.rejected] == ["x/a.png"]


def test_an_odd_file_beside_pictures_asks_for_no_key(tmp_path: Path) -> None:
    """A release with a random key can't be added to."""
    picture = cv2.imencode(".png", make_phantom(5, 0, 96).image_HW)[1].tobytes()
    files = {
        "a.png": picture,
        "x.heic": b"\0\0\0\x18ftypheic" + bytes(64),
        "Grünewald.bin": b"maybe a DICOM file",
        "Grünewald.gz": b"\x1f\x8b" + bytes(64),
        "Grünewald.pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    }
    folder = write(tmp_path / "in", files)
    (folder / "labels.csv").write_text("path\n" + "\n".join(files) + "\n")
    (record,) = chunks(read_source(str(folder), labels="labels.csv"), tmp_path / "out")
    assert {one.source_path for one in record.rejected} == {
        "x.heic",
        *(KEY.path(name) for name in files if name.startswith("Grünewald")),
    }, "what may be a DICOM file has its path hashed"
    assert record.images.num_rows == 1
    assert record.keyed == 0


def test_a_missing_file_of_a_hospital_is_told_by_its_row(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a.dcm": file()})
    (folder / "labels.csv").write_text("path\na.dcm\nGrünewald/gone.dcm\n")
    with pytest.raises(UserError, match=r"first row 2;") as caught:
        read_source(str(folder), labels="labels.csv")
    assert "Grünewald" not in str(caught.value)
    (aside,) = read_source(str(folder), labels="labels.csv", skip_missing=True).set_aside
    reject = rejected_aside(aside, KEY, WriteSettings())
    assert (reject.source_path, reject.detail) == (KEY.path("Grünewald/gone.dcm"), "row 2")
    (folder / "labels.csv").write_text("path\nGrünewald/a.dcm\nGrünewald/a.dcm\n")
    with pytest.raises(UserError, match="rows 1 and 2 name the same image;"):
        read_source(str(folder), labels="labels.csv")


@pytest.fixture
def ingested(tmp_path: Path, write_set: WriteSet) -> Manifest:
    """A DICOM file and a broken one, below folders that tell a name."""
    folder = write(tmp_path / "in", {"Grünewald/a.dcm": file(), "Grünewald/b.dcm": file(1, Modality="CT")})
    manifest = write_set(read_source(str(folder)), tmp_path / "out", WriteSettings())
    (record,) = chunks(read_source(str(folder)), tmp_path / "again")
    (reject,) = record.rejected
    table = pa.table({"source_path": [reject.source_path], "reason": [reject.reason], "sha256": [reject.sha256]})
    pq.write_table(table, tmp_path / "out" / REJECTED)
    return manifest


@pytest.mark.parametrize("random", [False, True])
def test_the_owner_finds_what_a_hash_stands_for(ingested: Manifest, tmp_path: Path, random: bool) -> None:
    manifest = replace(ingested, key=KeyRecord(KEY.fingerprint, random))
    found = set(originals(manifest, list_files(str(tmp_path / "in")), None if random else KEY))
    assert found == {
        (KEY.path("Grünewald/a.dcm"), "Grünewald/a.dcm", ""),
        (KEY.path("Grünewald/b.dcm"), "Grünewald/b.dcm", "modality"),
    }
    if not random:
        with pytest.raises(UserError, match=KEY_VARIABLE):
            list(originals(manifest, list_files(str(tmp_path / "in")), Pseudonyms(b"another")))


def test_the_owner_finds_files_that_a_table_named_through_links(tmp_path: Path, write_set: WriteSet) -> None:
    folder = write(tmp_path / "in", {f"x/{number}.dcm": file(number) for number in range(3)})
    (folder / "again").symlink_to("x")
    (folder / "here").symlink_to(".")
    names = ["again/0.dcm", "here/again/1.dcm", "x/2.dcm"]
    (folder / "labels.csv").write_text("\n".join(["path", *names, ""]))
    manifest = write_set(read_source(str(folder), labels="labels.csv"), tmp_path / "out", WriteSettings())
    pq.write_table(pa.table({"source_path": [""], "reason": [""], "sha256": [""]}), tmp_path / "out" / REJECTED)
    manifest = replace(manifest, key=KeyRecord(KEY.fingerprint, False))
    found = set(originals(manifest, list_files(str(folder)), KEY))
    assert found == {(KEY.path(name), name, "") for name in names}, "each by the path that its table has"


def test_the_owner_s_pipes_and_huge_files_are_passed_over(
    ingested: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = replace(ingested, key=KeyRecord(KEY.fingerprint, True), settings={"clean": {"max_megapixels": 1.0}})
    os.mkfifo(tmp_path / "in" / "a.dcm")
    with (tmp_path / "in" / "b.dcm").open("wb") as sparse:
        sparse.truncate(66 << 20)
    found = set(originals(manifest, list_files(str(tmp_path / "in")), None))
    assert {file for _, file, _ in found} == {"Grünewald/a.dcm", "Grünewald/b.dcm"}
    limits: list[int] = []
    monkeypatch.setattr("chexworld_ray.shards.originals.fetch", lambda _, limit: limits.append(limit) or b"")
    list(originals(manifest, list_files(str(tmp_path / "in")), None))
    assert set(limits) == {largest_file(1.0)}, "what an ingest would not read is not read"


def test_the_owner_finds_it_from_the_command_line(
    ingested: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert load(str(tmp_path / "out")) == ingested
    assert main(["inspect", str(tmp_path / "out"), "--originals", str(tmp_path / "in")]) == 0
    assert f"{KEY.path('Grünewald/b.dcm')}\tGrünewald/b.dcm\tmodality" in capsys.readouterr().out.splitlines()
