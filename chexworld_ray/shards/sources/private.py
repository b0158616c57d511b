"""Which columns of a user's table tell who a patient is: by their names, or by what stands in them.

A list of words never ends. It is here for the columns that hospitals' exports have every day; what it does not know is
told at the end of an ingest, column by column.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable

from chexworld_ray.errors import UserError

FREE_TEXT_WORDS = 6  # a cell of so many words is a sentence, not a category


def _joined(column: str) -> str:
    """Letters and digits of a name, lower case, without accents."""
    plain = unicodedata.normalize("NFKD", column.casefold())
    return "".join(letter for letter in plain if letter.isalnum())


def _words(text: str) -> frozenset[str]:
    return frozenset(map(_joined, text.split()))


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

# A column is refused where its name, without blanks and accents, is one of these
_NAMES = _words(
    """
    patient patients subject name names nom nombre nome naam namn navn pid rut nie rue calle via ort handy address
    born fax tel telno ip initials operator relative emr ehr mpi geb sin cep lname fname patientnr fallnummer
    """
)
# … or where one of its words is, whatever stands beside it
_WORDS = _words(
    """
    mrn mrno ptid patid patno ssn nhs nhsno nhi nir cpf dni nif curp bsn cpr pesel oib egn cnp jmbg aadhaar hkid nric
    medicare medicaid insurance insurer dob dod bday ddn gebdatum mail email phone telephone telefon telefono telefone
    cellphone addr adresse direccion endereco indirizzo adres street strasse straat city stadt ciudad ville citta
    zip zipcode postcode plz accession passport mother father spouse guardian employer physician doctor arzt medico
    technologist signature surname forename nickname prenom apellido apellidos nachname vorname cognome sobrenome
    achternaam voornaam efternamn fornamn etternavn fornavn efternavn nazwisko imie versicherung krankenkasse
    patientno hospitalno personnummer fodselsnummer kennitala postleitzahl akzession
    """
)
# … or where one of these stands anywhere in it
_PARTS = _words(
    """
    patientname patientsname patname ptname firstname lastname fullname givenname familyname middlename maidenname
    birthname namelast namefirst legalname othername nameofpatient familienname geburtsname nomdefamille nompatient
    nombrepaciente nombrecompleto nomepaciente nomecompleto medicalrecord hospitalnumber
    patientid patientnumber patientident subjectid recordnumber chartnumber casenumber admissionnumber
    visitnumber encounterid accession accno accnum socialsecurity sozialversicherung securitesociale
    seguridadsocial nhsnumber nationalid healthcard insurance versicher krankenkasse aseguradora policynumber
    codicefiscale identitycard idcard driverlicense driverslicense drivinglicence licenseplate taxid accountnumber
    birthdat dateofbirth birthday geburtsdat geburtstag nacimiento naissance nascita nascimento geboorte fodelse
    fodsels urodzenia dateofdeath deathdate emailaddress phonenumber telephonenumber mobilenumber mobilephone
    homeaddress streetaddress addressline patientaddress ipaddress codigopostal codepostal postalcode nextofkin
    mothername fathername physicianname doctorname operatorname radiologistname
    姓名 名前 氏名 이름 病历号 身份证 住院号 出生日期 生年月日 生日 电话 電話 手机 地址 住所
    имя фамилия отчество фио датарождения телефон адрес полис снилс
    """
)
_FREE_TEXT = _words(
    """
    note notes comment comments remark remarks report reports reporttext history clinicalhistory clinicalinformation
    indication indications impression narrative freetext studydescription seriesdescription imagecomments
    patientcomments anamnesis anamnese befund bericht bemerkung bemerkungen kommentar notiz notizen nota notas
    clinicalnotes othernotes observacion observaciones observacao informe comentario comentarios compterendu
    commentaire remarque referto osservazioni opmerking opmerkingen verslag
    """
)
_STUDY_DATE = re.compile(
    r"study|exam|acqui|series|scan|image|content|procedure|visit|follow|untersuch|estudio|etude|aufnahme"
)

# "Opacity, Left Lower" and "Siemens, Ysio" are written like names of persons: they are none in a column one of whose
# words is of these …
_THINGS = _words(
    """
    finding findings label labels diagnosis diagnoses diagnose dx icd icd9 icd10 code codes pathology pathologies
    disease diseases condition abnormality abnormalities lesion lesions opacity class classes category categories type
    subtype device devices manufacturer vendor scanner detector equipment model view views projection position modality
    procedure protocol exam examination technique anatomy region location lobe zone side
    befund befunde gerät hersteller modell aufnahme projektion hallazgo hallazgos diagnóstico dispositivo fabricante
    modelo proyección diagnostic appareil fabricant modèle projeção achado achados reperto reperti proiezione bevinding
    """
)
# … and none of these
_PEOPLE = _words(
    """
    patient patients subject person who by reader readers rater annotator labeler labeller author user staff reporter
    reviewer operator radiologist doctor physician nurse technician von durch par por da door
    """
)

_EMAIL = re.compile(r"(?<![^\s@])[^\s@]+@[^\s@]+\.[a-zA-Z]{2,}")
_PERSON = re.compile(r"[^\W\d_]{2}\^(?!\d)|\^[^\W\d_]{2}")
_COMMA_NAME = re.compile(r"[A-ZÀ-Þ][\w'’-]+, ?(?:(?:Dr|Mr|Mrs|Ms)\.? )?[A-ZÀ-Þ][\w'’.-]*(?: [A-ZÀ-Þ][\w'’.-]*)?")
_TITLED = re.compile(r"\b(?:Mr|Mrs|Ms|Miss|Herr|Frau|Señora?|Sra?|Mme|Monsieur|Madame|Sig|Signora?)\.? [A-ZÀ-Þ]")
_SECURITY = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d[\d ()/-]{7,18}\d|\(\d{2,5}\) ?\d[\d /-]{4,12}\d|0\d{2,4}[ /-]\d[\d /-]{4,12}\d"
    r"|\d{3}[ -]\d{3}[ -]\d{4})(?![\w.-])"
)
_MONTH = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mär|mai|okt|dez|ene|abr|ago|dic|fev|fév|avr|juin|juil|aoû|déc|gen|"
    r"mag|giu|lug|set|ott)[^\W\d_]{0,10}\.?"
)
_YEAR = r"(?:18|19|20)\d\d"
_DATE = re.compile(
    rf"(?i)(?<![\d.-])(?:{_YEAR}[-/. ](?:0?[1-9]|1[0-2])[-/. ](?:0?[1-9]|[12]\d|3[01])(?![\d])"
    rf"|(?:0?[1-9]|[12]\d|3[01])[-/. ](?:0?[1-9]|[12]\d|3[01])[-/. ]{_YEAR}(?!\d)"
    rf"|(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th|\.)?[ -]{_MONTH}[ ,-]{{0,3}}{_YEAR}"
    rf"|{_MONTH} ?(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?,? {_YEAR})"
)
_BARE_DATE = re.compile(rf"{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\.0)?")
_UID = re.compile(r"\d+(?:\.\d+){5,}")
_YEAR_ONLY = re.compile(rf"(?:{_YEAR})?(?:\.0)?")


def why_private(column: str, cells: Collection[str], words_matter: bool = True) -> str | None:
    """Why a column may tell who a patient is; None where nothing speaks for it. `cells` are its different values.

    `words_matter` is False for columns whose meaning is known (patient, study): only what can't be a pseudonym is
    refused there.
    """
    filled = [cell for cell in cells if cell]
    if not filled:
        return None
    name = _joined(column)
    if words_matter and _names_a_person(column, name) and not _only_years(name, filled):
        pseudonym = any(part in name for part in ("patientid", "subjectid"))
        return "name it patient_id if it holds pseudonyms" if pseudonym else "its name says so"
    if (looks := _looks(filled)) is not None:
        return looks
    if not (words_matter and _names_a_thing(column)) and _mostly_comma_names(filled):
        return "it holds names of persons"
    if not words_matter:
        return None
    if any(_UID.fullmatch(cell) for cell in filled):
        return "it holds DICOM UIDs"
    if not _STUDY_DATE.search(name) and _holds_dates(filled):
        return "it holds dates, which may be of birth"
    words = max(sum(any(map(str.isalpha, word)) for word in cell.split()) for cell in filled)
    if words >= (2 if name in _FREE_TEXT else FREE_TEXT_WORDS):
        return "it holds free text"
    return None


def check_columns(table: str, found: Iterable[tuple[str, Collection[str], bool]], keep: Collection[str]) -> None:
    """Refuse columns (name, different values, whether its name matters) that tell who a patient is, unless kept.

    Raises:
        UserError: names all of them and why, but nothing of what stands in them.
    """
    told = [
        f"{column!r} ({why})"
        for column, cells, words_matter in found
        if column not in keep and (why := why_private(column, cells, words_matter)) is not None
    ]
    if told:
        raise UserError(
            f"{table}: columns that may tell who a patient is: {', '.join(told)}; remove them, or say with "
            "--keep-columns a,b which of them are pseudonymous and may be stored"
        )


def _names_a_person(column: str, joined: str) -> bool:
    words = _words_of(column)
    return joined in _NAMES or bool((words | {joined}) & _WORDS) or any(part in joined for part in _PARTS)


def _names_a_thing(column: str) -> bool:
    words = _words_of(column)
    return bool(words & _THINGS) and not words & _PEOPLE


def _words_of(column: str) -> set[str]:
    return {_joined(word) for word in re.split(r"[\W_]+", _CAMEL.sub(" ", column))}


def _only_years(name: str, cells: Iterable[str]) -> bool:
    """Years of birth are ages, not dates."""
    about_birth = any(word in name for word in ("birth", "born", "geb", "nac", "nais", "nasc", "dob"))
    return about_birth and all(_YEAR_ONLY.fullmatch(cell) for cell in cells)


def _looks(cells: Collection[str]) -> str | None:
    """What unmistakable kind of identifier stands in a column."""
    kinds = (
        (_EMAIL, "e-mail addresses"),
        (_PERSON, "names like those of DICOM"),
        (_SECURITY, "social security numbers"),
    )
    for pattern, what in (*kinds, (_TITLED, "names of persons"), (_PHONE, "phone numbers")):
        if any(pattern.search(cell) for cell in cells):
            return f"it holds {what}"
    return None


def _mostly_comma_names(cells: Collection[str]) -> bool:
    """Most are written as family name, comma, given name."""
    return 2 * sum(_COMMA_NAME.fullmatch(cell) is not None for cell in cells) > len(cells)


def _holds_dates(cells: Collection[str]) -> bool:
    """Written as dates, or numbers most of which are a year, a month and a day."""
    bare = sum(_BARE_DATE.fullmatch(cell) is not None for cell in cells)
    return 2 * bare > len(cells) or any(_DATE.search(cell) for cell in cells)
