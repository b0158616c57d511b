"""Columns of a user's table that tell who a patient is are refused, and those that a study needs are not."""

import weakref
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from chexworld_ray.cli import main
from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.source import SourceRow, kept_columns, unpack
from chexworld_ray.shards.sources.private import why_private
from chexworld_ray.shards.sources.registry import read_source

NAMES = """
PatientName|patient_name|Patient Name|PATIENT NAME|patient's name|Pat.Name|name|Name|first_name|lastName|Last Name
surname|full name|Given-Name|middle_name|maiden_name|Nachname|Vorname|Patientenname Vorname|Geburtsname|nom|prénom
Prenom|apellidos|Nombre|nombre_completo|cognome|Nome paziente cognome|sobrenome|achternaam|Voornaam|efternamn
förnamn|etternavn|nazwisko|imię|имя|Фамилия|姓名|患者氏名|이름|mrn|MRN|patient_mrn|Medical Record Number
medical_record_no|hospital_number|HospitalNo|PatientID|patientId|Patient ID|subject_id|pid|pat_id|PatNo|accession
AccessionNumber|accession_no|acc_num|ssn|SSN|Social Security Number|nhs_number|NHS|cpf|CPF do paciente|DNI
codice fiscale|BSN|PESEL|personnummer
insurance_id|Insurance Number|Versichertennummer|Krankenkasse|policy_number|passport|drivers_license
national_id|Aadhaar|dob|DOB|patient_dob|BirthDate|birth_date|Date of Birth|birthday|Geburtsdatum|geb_datum
fecha_nacimiento|Fecha de nacimiento|date_naissance|data_nascita|data de nascimento|geboortedatum|födelsedatum
data urodzenia|dod|date_of_death|出生日期|生年月日|address|Address|home_address|street|Straße|adresse|dirección
indirizzo|endereço|city|Stadt|zip|zip_code|ZIP|postcode|PLZ|Postleitzahl|código postal|住所|phone|Phone Number
patient_phone|telephone|Telefon|teléfono|tel|mobile_number|fax|email|E-Mail|e_mail|mail|emailAddress|ip_address|mother|father_name
next_of_kin|employer|physician|Referring Physician|referringPhysicianName|doctor|operator|technologist
radiologist_name|signature
"""
VALUES = [
    ("contact", ["jane@example.org", "none"]),
    ("who", ["Doe^Jane", "Roe^Richard^^Dr"]),
    ("who", ["Doe, Jane", "Roe, Richard A."]),
    ("labelled by", ["Doe, Jane", "Roe, Richard A."]),
    ("label_reader", ["Doe, Jane"]),
    ("interview", ["Doe, Jane"]),
    ("finding", ["Doe^Jane"]),
    ("seen by", ["Mrs Miller", "ward 3"]),
    ("taken", ["Herr Müller"]),
    ("number", ["123-45-6789"]),
    ("reach", ["+49 30 1234567"]),
    ("reach", ["(030) 123 4567"]),
    ("reach", ["555-123-4567"]),
    ("when", ["1961-02-03"]),
    ("when", ["03.02.1961"]),
    ("when", ["2/3/1961"]),
    ("when", ["3 Feb 1961"]),
    ("when", ["February 3, 1961"]),
    ("when", ["3. März 1961"]),
    ("when", ["19610203", "19800101"]),
    ("when", ["1961-02-03 00:00:00"]),
    ("link", ["1.2.826.0.1.3680043.8.498.111"]),
    ("wording", ["the heart of this patient is enlarged"]),
    ("note", ["said by Refdoc"]),
    ("Bemerkung", ["Kontrolle nach OP"]),
    ("clinical_notes", ["seen before"]),
]
# of MIMIC-CXR, CheXpert, NIH, PadChest, VinDr, BRAX, RSNA, COVID sets, our own, and what studies write down
HARMLESS = [
    ("age", ["61", "7", ""]),
    ("Patient Age", ["058Y", "041Y"]),
    ("PatientAge", ["61"]),
    ("sex", ["F", "M"]),
    ("Patient Gender", ["Female", "Male"]),
    ("PatientSex_DICOM", ["F"]),
    ("ViewPosition", ["PA", "LATERAL"]),
    ("Follow-up #", ["0", "11"]),
    (
        "Finding Labels",
        ["Cardiomegaly|Emphysema", "No Finding", "Pleural_Thickening|Infiltration|Mass|Nodule|Edema|Hernia"],
    ),
    ("finding", ["Opacity, Left Lower", "Pneumonia, Lobar"]),
    ("Finding Labels", ["Pneumonia, Lobar"]),
    ("diagnosis_code", ["Pneumonia, Lobar", "Effusion, Left"]),
    ("Device", ["Siemens, Ysio"]),
    ("ManufacturerModelName", ["Siemens, Ysio"]),
    ("ViewPosition", ["Chest, Portable"]),
    ("Proyección", ["Tórax, Lateral"]),
    ("StudyDate", ["21800506", "21790312"]),
    ("StudyDate_DICOM", ["20140915"]),
    ("study_date", ["2024-05-06", "20240507"]),
    ("AcquisitionDate", ["20240506"]),
    ("StudyTime", ["213014.53100000002"]),
    ("PatientBirth", ["1961", "1980.0"]),
    ("dicom_id", ["02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"]),
    ("ImageID", ["216840111366964012283393834152009033102258826_00-059-087.png"]),
    ("PerformedProcedureStepDescription", ["CHEST (PA AND LAT)", "CHEST (PORTABLE AP)"]),
    ("Frontal/Lateral", ["Frontal"]),
    ("OriginalImage[Width", ["2682"]),
    ("Rows", ["3056"]),
    ("PixelSpacing", ["[0.143, 0.143]", "0.143 0.143"]),
    ("Manufacturer", ["Carestream Health", "Imaging Dynamics Company Ltd"]),
    ("hospital", ["lakeside", "St. Mary"]),
    ("hospital_id", ["3"]),
    ("ethnicity", ["WHITE - OTHER EUROPEAN"]),
    ("location", ["New York, USA"]),
    ("subtype", ["bacterial", "viral"]),
    ("class", ["No Lung Opacity / Not Normal", "Lung Opacity"]),
    ("filename", ["a.png"]),
    ("model_name", ["XR 656"]),
    ("license", ["CC BY-NC-SA 4.0"]),
    ("exponent", ["x^2", "10^3"]),
    ("severity", ["1", "2", "3"]),
    ("study_number", ["50414267", "53189527"]),
    ("year", ["2019"]),
    ("kVp", ["120.5"]),
    ("mobility", ["walks"]),
    ("fold", ["1"]),
    ("nipple_shadow", ["left"]),
    ("maximum", ["3"]),
]


@pytest.mark.parametrize("name", [name for line in NAMES.strip().splitlines() for name in line.split("|")])
def test_a_name_that_tells_a_person_is_known(name: str) -> None:
    assert why_private(name, {"anything", ""}) is not None


@pytest.mark.parametrize(("name", "values"), VALUES)
def test_a_value_that_tells_a_person_is_known(name: str, values: list[str]) -> None:
    assert why_private(name, set(values)) is not None


@pytest.mark.parametrize(("name", "values"), HARMLESS)
def test_what_studies_and_public_sets_write_down_is_kept(name: str, values: list[str]) -> None:
    assert why_private(name, set(values)) is None


@pytest.mark.parametrize("name", ["PatientName", "dob", "note"])
def test_an_empty_column_tells_nothing(name: str) -> None:
    assert why_private(name, {""}) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), make_phantom(5, number, 96).image_HW)
    return tmp_path


def test_all_such_columns_are_named_and_nothing_of_what_they_hold(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "labels.csv").write_text(
        "path,PatientName,opacity,when,sex,patient_id\n0.png,Needle Jane,1,1961-02-03,F,a@b.org\n1.png,,0,,M,p2\n"
    )
    out = folder / "out"
    assert main(["ingest", str(folder), "--labels", "labels.csv", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'PatientName' (its name says so), 'when' (it holds dates" in line
    assert "'patient_id' (it holds e-mail addresses)" in line
    assert "--keep-columns" in line
    for told in ("Needle", "1961", "a@b.org", "sex", "opacity"):
        assert told not in line
    assert not out.exists(), "nothing is written"


def test_columns_that_the_user_names_are_kept_and_told(folder: Path) -> None:
    (folder / "labels.csv").write_text(
        "image,patient,mrn,note,opacity,age\n0.png,p1,A7,two words,1,61\n1.png,p2,,,0,\n"
    )
    source = read_source(str(folder), labels="labels.csv", keep_columns=("mrn", "note"))
    assert [row.meta for row in source] == [{"mrn": "A7", "note": "two words", "age": 61.0}, {}]
    assert kept_columns(source) == (
        "columns kept, and of how many of 2 images: image_id from image 2, patient_id from patient 2; "
        "labels: opacity 2; meta data: meta_mrn (text) 1, meta_note (text) 1, meta_age (number) 1"
    )
    with pytest.raises(UserError, match=r"'note'"):
        read_source(str(folder), labels="labels.csv", keep_columns=("mrn",))
    with pytest.raises(UserError, match=r"--keep-columns: .* has no column 'notes'"):
        read_source(str(folder), labels="labels.csv", keep_columns=("notes",))
    with pytest.raises(UserError, match="say which one with --labels"):
        read_source(str(folder), keep_columns=("note",))


def test_columns_are_counted_without_all_rows_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "labels.csv").write_text("image,opacity\n0.png,1\n1.png,0\n")
    source = read_source(str(folder), labels="labels.csv")
    rows: list[weakref.ref[SourceRow]] = []

    def unpacked(text: bytes) -> SourceRow:
        assert sum(row() is not None for row in rows) < 2
        row = unpack(text)
        rows.append(weakref.ref(row))
        return row

    monkeypatch.setattr("chexworld_ray.shards.source.unpack", unpacked)
    source = replace(source, packed=source.packed * 3)
    assert "labels: opacity 6" in kept_columns(source)


@pytest.mark.parametrize("piece", ["a", "jan", "a@", "^", "1 ", "0 1", "(030) ", "Doe, ", "1.2", "a^"])
def test_a_long_cell_is_looked_through_in_no_time(piece: str) -> None:
    """Patterns that try each start anew would take hours."""
    why_private("wording", {piece * 50_000})
