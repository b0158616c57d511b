"""What a DICOM header says about who it is of, gathered from wherever it stands: nested, private, written otherwise."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydicom.tag import Tag
from pydicom.uid import UID

from chexworld_ray.shards.identity import HeaderIds, dates, folded

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset


def _terms(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODALITIES = _terms(
    """
    AR AS BI BMD CR CT CTPROTOCOL DG DMS DOC DR DX ECG EEG EMG EOG EPS ES FA FID GM HC HD IO IOL IVOCT IVUS KER KO LEN
    LP LS MG MR M3D NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE
    RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP TG US VA VF XA XC
    """
)
_GROUPS = {
    *(0x0008, 0x0010, 0x0012, 0x0020, 0x0032, 0x0038, 0x0040, 0x0070, 0x2100, 0x3006, 0x300E, 0x4008),
    0x0400,  # what stood there before: names and ids of patients that were merged
}
_PATIENT = 0x0010
_TEXT = {"LO", "SH", "LT", "ST", "UT", "UC"}
_IDS = {
    "AccessionNumber",
    "StudyID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "AdmissionID",
    "ServiceEpisodeID",
    "RequestedProcedureID",
    "ScheduledProcedureStepID",
    "PerformedProcedureStepID",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "PatientID",
}
_OF_MANY = {  # of group 0010, but true of many patients
    "IssuerOfPatientID",
    "EthnicGroup",
    "Occupation",
    "PatientSpeciesDescription",
    "PatientBreedDescription",
    "MedicalAlerts",
    "Allergies",
    "CountryOfResidence",
    "RegionOfResidence",
}
_DEEPEST, _MOST, _LONGEST = 6, 2000, 10_240  # sequences in sequences, values, letters: a header may have no end
_PRIVATE_ID = re.compile(r"(?=.*\d)[\w^./-]{5,}|.*[^\W\d_]\^.*")
_DECIMAL = re.compile(r"[+-]?\d*\.\d*(?:[eE][+-]?\d+)?")


_OPTIONAL = (  # what is asked of a header and may be missing
    *("SOPClassUID", "PatientID", "StudyInstanceUID", "PresentationIntentType"),
    *("BodyPartExamined", "ViewPosition", "BurnedInAnnotation", "NumberOfFrames", "HighBit", "PlanarConfiguration"),
    *("PhotometricInterpretation", "PixelIntensityRelationshipSign"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("PresentationLUTShape", "PresentationLUTSequence"),
)


def drop_damaged(header: "Dataset") -> list[str]:
    """Remove optional elements that can't be read, for their picture may be good; a flag where there were any."""
    damaged: list[str] = []
    for keyword in _OPTIONAL:
        try:
            header.get(keyword)
        except MemoryError:
            raise
        except Exception:  # a damaged element makes pydicom raise anything
            damaged.append(keyword)
    for keyword in damaged:
        del header[Tag(keyword)]
    return ["header_damaged"] if damaged else []


def header_ids(header: "Dataset") -> HeaderIds:
    """Identifiers of the patient and the study, and names of all persons, that a header tells."""

    def text(keyword: str) -> str | None:
        return str(header.get(keyword, "") or "").strip() or None

    exact: set[str] = set()
    persons: set[tuple[str, ...]] = set()
    for number, element in enumerate(_elements(header, 0)):
        if number >= _MOST:
            break
        for value in _values(element):
            if element.VR == "PN":
                persons.update(_persons(value))
            elif element.tag.group == _PATIENT and (element.VR == "DA" or "Date" in element.keyword):
                exact.update(dates(value))
            if element.VR != "PN" and _tells(element, value):
                exact.add(folded(value))
    names = {name for person in persons for name in person}
    joined = {"".join(order) for person in persons if len(person) > 1 for order in (person, person[::-1])}
    exact |= {folded(value) for value in (text("PatientID"), text("StudyInstanceUID")) if value}
    return HeaderIds(
        text("PatientID"), text("StudyInstanceUID"), tuple(sorted(exact)), tuple(sorted(names)), tuple(sorted(joined))
    )


def _elements(part: "Dataset", depth: int) -> Iterator["DataElement"]:
    """Elements that may tell who it is, of all levels; those that can't be read are passed over."""
    for tag in sorted(part.keys(), key=lambda tag: tag.group != _PATIENT):  # first what tells most: not all is read
        if tag.group not in _GROUPS and not tag.is_private:
            continue
        try:
            element = part[tag]
        except Exception:  # a damaged element makes pydicom raise anything; it is nobody's name
            continue
        if element.VR == "SQ":
            if depth < _DEEPEST:
                for item in element.value or ():
                    yield from _elements(item, depth + 1)
        elif element.VR != "DA" or tag.group == _PATIENT:
            yield element


def _values(element: "DataElement") -> Iterator[str]:
    value: Any = element.value
    if isinstance(value, bytes):
        value = value.rstrip(b"\0 ").decode("ascii", "replace") if len(value) <= 1024 else ""
    for one in value if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else (value,):
        if (text := str(one or "").strip()) and len(text) <= _LONGEST and "\ufffd" not in text:
            yield text


def _tells(element: "DataElement", value: str) -> bool:
    if element.tag.is_private:
        return _PRIVATE_ID.fullmatch(value) is not None and not _DECIMAL.fullmatch(value)
    if element.keyword in _IDS:
        return True
    return element.tag.group == _PATIENT and element.VR in _TEXT and element.keyword not in _OF_MANY


def _persons(value: str) -> Iterator[tuple[str, ...]]:
    """Parts of each spelling of a name, folded."""
    for spelling in value.split("="):
        for style in (folded(spelling), folded(spelling, umlauts=True)):
            parts = tuple(part for part in re.split(r"[\^\s,.]+", style) if part)
            if parts:
                yield parts


def term(value: str, known: frozenset[str]) -> str:
    """A word of DICOM's own lists; what else stands there is not told, for it may be anything."""
    return value if value in known else "unknown"


def syntax_name(syntax: Any) -> str:
    """The name or number of a transfer syntax; what is neither is not told."""
    known = UID(str(syntax or ""))
    return known.name if known.is_valid else "unknown"
