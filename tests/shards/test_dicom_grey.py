"""What a DICOM header says of how its pixels are seen (tables, windows, polarity) is done, or flagged."""

import io

import numpy as np
import pytest
from dicoms import dicom, sequence
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
)

from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.decode import Decoded, decode_file

PHANTOM = make_phantom(0, 1, 128).image_HW
DEEP = PHANTOM.astype(np.uint16) * 14 + 200  # 12 bits
NEGATIVE = (4095 - DEEP).astype(np.uint16)
SIGNED = DEEP.astype(np.int16) - 2048
DOWN = np.arange(4095, -1, -1)  # the table of 12 bits that turns a picture


def decode(data: bytes) -> Decoded:
    return decode_file(data, 100.0)


def alike(found: Decoded) -> float:
    return float(np.corrcoef(found.pixels_HW.ravel().astype(float), PHANTOM.ravel().astype(float))[0, 1])


def table(entries: object, bits: int) -> Sequence:
    return Sequence([sequence(LUTDescriptor=[4096, 0, bits], LUTData=entries)])


TABLES = {
    "12 bits": (DOWN.astype("<u2").tobytes(), 12),
    "16 bits": ((DOWN * 16).astype("<u2").tobytes(), 16),
    "8 bits, packed": ((DOWN // 16).astype(np.uint8).tobytes(), 8),
    "8 bits in 16": ((DOWN // 16).astype("<u2").tobytes(), 8),
    "10 bits": ((DOWN // 4).astype("<u2").tobytes(), 10),
    "no bits": (DOWN.astype("<u2").tobytes(), 0),
    "one entry short": (DOWN[:-1].astype("<u2").tobytes(), 12),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_table_is_applied_whatever_the_width_of_its_entries(name: str, keyword: str) -> None:
    found = decode(dicom(NEGATIVE, 12, **{keyword: table(*TABLES[name])}))
    assert alike(found) > 0.99
    assert found.flags == []


def test_a_window_beside_a_modality_table_is_of_what_the_table_gives() -> None:
    window = {"WindowCenter": 1500, "WindowWidth": 2000}
    found = decode(dicom(NEGATIVE, 12, ModalityLUTSequence=table(*TABLES["12 bits"]), **window))
    assert np.array_equal(found.pixels_HW, decode(dicom(DEEP, 12, **window)).pixels_HW)


@pytest.mark.parametrize(("vr", "first"), [("SS", -2048), ("US", 0x10000 - 2048)])
def test_a_table_for_signed_values_starts_below_zero_though_written_as_unsigned(vr: str, first: int) -> None:
    inverting = table(*TABLES["12 bits"])
    inverting[0].add_new("LUTDescriptor", vr, [4096, first, 12])
    assert alike(decode(dicom(-SIGNED, 16, PixelRepresentation=1, VOILUTSequence=inverting))) > 0.99


@pytest.mark.parametrize("name", ["12 bits", "8 bits, packed"])
def test_tables_of_big_endian_files_are_read(name: str) -> None:
    entries, bits = TABLES[name]
    little = dcmread(io.BytesIO(dicom(NEGATIVE, 12)))
    big = Dataset()
    big.update(little)
    big.file_meta = little.file_meta
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    big.ModalityLUTSequence = table(np.frombuffer(entries, "<u2").astype(">u2").tobytes(), bits)
    big.ModalityLUTSequence[0]["LUTData"].VR = "OW"
    big.PixelData = NEGATIVE.astype(">u2").tobytes()
    buffer = io.BytesIO()
    dcmwrite(buffer, big, implicit_vr=False, little_endian=False, enforce_file_format=True)
    found = decode(buffer.getvalue())
    assert alike(found) > 0.99
    assert found.flags == []


HALF = DOWN[:1500].astype("<u2").tobytes()


def test_a_modality_table_that_can_not_be_applied_is_flagged() -> None:
    for entries in (HALF, b"", bytes(8192)):
        assert decode(dicom(DEEP, 12, ModalityLUTSequence=table(entries, 12))).flags == ["modality_lut_not_applied"]
    assert decode(dicom(DEEP, 12, RescaleSlope=0, RescaleIntercept=3)).flags == ["modality_lut_not_applied"]
    unread = dicom(DEEP, 12, RescaleSlope="11").replace(b"DS\x02\x0011", b"DS\x02\x00ab")
    assert decode(unread).flags == ["modality_lut_not_applied"]


@pytest.mark.parametrize(
    "rescale",
    [
        *({"RescaleSlope": slope} for slope in ("1e308", "-1e308", "1e36", "1e-300", "1e-12")),
        *({"RescaleIntercept": intercept} for intercept in ("1e308", "1e30", "1e12", "-1e9")),
    ],
)
def test_a_rescale_that_leaves_nothing_to_tell_apart_is_not_applied_and_flagged(rescale: dict[str, str]) -> None:
    found = decode(dicom(DEEP, 12, **rescale))
    assert alike(found) > 0.99
    assert found.flags == ["modality_lut_not_applied"]


@pytest.mark.parametrize("slope", ["1e-6", "1e6", "-1e-6"])
def test_a_slope_that_is_only_odd_is_applied(slope: str) -> None:
    found = decode(dicom(NEGATIVE if slope[0] == "-" else DEEP, 12, RescaleSlope=slope))
    assert alike(found) > 0.99
    assert found.flags == []


def test_of_a_broken_table_and_a_window_the_window_is_taken() -> None:
    window = {"WindowCenter": 1500, "WindowWidth": 2000}
    for entries in (HALF, b"", bytes(8192)):
        found = decode(dicom(DEEP, 12, VOILUTSequence=table(entries, 12), **window))
        assert np.array_equal(found.pixels_HW, decode(dicom(DEEP, 12, **window)).pixels_HW)
        assert found.flags == ["voi_lut_not_applied"]
    two = Sequence([*table(HALF, 12), *table(*TABLES["12 bits"])])
    assert alike(decode(dicom(NEGATIVE, 12, VOILUTSequence=two))) > 0.99, "the second table is whole"


def test_a_slope_below_zero_turns_a_picture_once_though_there_is_a_window() -> None:
    header = {"RescaleSlope": -1, "RescaleIntercept": 4095, "WindowCenter": 1500, "WindowWidth": 2000}
    found = decode(dicom(NEGATIVE, 12, **header))
    assert alike(found) > 0.95
    assert alike(decode(dicom(NEGATIVE, 12, RescaleSlope=-1))) > 0.99, "the intercept may be missing"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_of_the_function_that_the_header_names(function: str) -> None:
    ramp = np.tile(np.arange(0, 4096, 16, dtype=np.uint16), (128, 1))
    found = decode(dicom(ramp, 12, VOILUTFunction=function, WindowCenter=2048, WindowWidth=3000)).pixels_HW[0]
    value = ramp[0].astype(float)
    wanted = {
        "LINEAR": np.clip((value - 2047.5) / 2999 + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((value - 2048) / 3000 + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (value - 2048) / 3000)),
    }[function]
    assert np.abs(found - 255 * (wanted - wanted.min()) / np.ptp(wanted)).max() <= 1


@pytest.mark.parametrize(
    ("header", "negative", "flags"),
    [
        ({}, False, []),
        ({"PresentationLUTShape": "IDENTITY"}, False, []),
        ({"PresentationLUTShape": "INVERSE"}, True, ["inverted_presentation_lut", "polarity_contradictory"]),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
            True,
            ["inverted_monochrome1"],
        ),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
            True,
            ["inverted_monochrome1", "polarity_contradictory"],
        ),
        (
            {"PresentationLUTShape": "INVERSE", "PixelIntensityRelationshipSign": -1},
            False,
            ["polarity_contradictory"],
        ),
        ({"PhotometricInterpretation": " monochrome1"}, True, ["inverted_monochrome1"]),
        ({"PhotometricInterpretation": "GREY"}, False, ["polarity_unknown"]),
        ({"PhotometricInterpretation": None}, False, ["polarity_unknown"]),
        ({"PhotometricInterpretation": None, "PixelIntensityRelationshipSign": 1}, True, ["inverted_intensity_sign"]),
        ({"PixelIntensityRelationshipSign": -1}, False, []),
        ({"PixelIntensityRelationshipSign": 1}, False, ["polarity_contradictory"]),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "PixelIntensityRelationshipSign": 1},
            True,
            ["inverted_monochrome1"],
        ),
        ({"PresentationIntentType": "FOR PROCESSING"}, False, ["for_processing", "polarity_unknown"]),
        (
            {"PresentationIntentType": "FOR PROCESSING", "PixelIntensityRelationshipSign": 1},
            True,
            ["for_processing", "inverted_intensity_sign"],
        ),
        (
            {"PresentationIntentType": "FOR PROCESSING", "PixelIntensityRelationshipSign": -1},
            False,
            ["for_processing"],
        ),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, False, ["for_processing", "polarity_unknown"]),
    ],
)
def test_polarity_is_what_the_header_says_and_where_it_does_not_there_is_a_flag(
    header: dict[str, object], negative: bool, flags: list[str]
) -> None:
    found = decode(dicom(NEGATIVE if negative else DEEP, 12, **header))
    assert alike(found) > 0.99
    assert found.flags == flags


@pytest.mark.parametrize(
    "keyword",
    [
        *("PatientID", "StudyInstanceUID", "PresentationIntentType", "BurnedInAnnotation"),
        *("ViewPosition", "NumberOfFrames", "HighBit", "PixelIntensityRelationshipSign", "PixelPaddingValue"),
        *("PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter"),
        *("WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape", "PresentationLUTSequence"),
        *("BodyPartExamined", "PhotometricInterpretation", "SOPClassUID"),
    ],
)
def test_an_optional_element_that_can_not_be_read_is_a_flag_and_no_reject(keyword: str) -> None:
    file = dcmread(io.BytesIO(dicom(DEEP, 12)))
    file.add_new(keyword, "LT", "UNREAD")
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    data = whole.replace(b"LT\x06\x00UNREAD", b"FD\x06\x00UNREAD")
    assert data != whole
    found = decode(data)
    assert alike(found) > 0.99
    consequence = {"BodyPartExamined": "body_part_unknown", "PhotometricInterpretation": "polarity_unknown"}
    assert {*found.flags} == {"header_damaged", *({consequence[keyword]} if keyword in consequence else ())}


def test_the_sign_of_raw_data_counts_for_stored_values_before_any_table() -> None:
    raw = {"PresentationIntentType": "FOR PROCESSING", "PixelIntensityRelationshipSign": -1}
    found = decode(dicom(DEEP, 12, RescaleSlope=-1, RescaleIntercept=4095, **raw))
    assert alike(found) > 0.99
    assert found.flags == ["for_processing", "inverted_intensity_sign"]


def test_a_palette_of_8_bits_is_applied() -> None:
    ramp = np.arange(256, dtype=np.uint8).tobytes()
    palette: dict[str, object] = {f"{name}PaletteColorLookupTableData": ramp for name in ("Red", "Green", "Blue")}
    palette |= {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 8] for name in ("Red", "Green", "Blue")}
    assert alike(decode(dicom(PHANTOM, PhotometricInterpretation="PALETTE COLOR", **palette))) > 0.99
