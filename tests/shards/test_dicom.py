"""DICOM as archives hold it: polarity, windows, tables, padding, syntaxes, and who it is about."""

import io
import logging

import numpy as np
import pytest
from dicoms import IDENTIFIERS, dicom, sequence
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless

from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards.decode import Decoded, Rejected, decode_file
from chexworld_ray.shards.identify import identify
from chexworld_ray.shards.identity import HeaderIds, Pseudonyms
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import SourceRow

PHANTOM = make_phantom(0, 1, 128).image_HW
SMALL = dicom(PHANTOM[::4, ::4].astype(np.uint16) * 14, 12, WindowCenter=2000, WindowWidth=3000)
SMALL_RLE = dicom(PHANTOM[::4, ::4].astype(np.uint16) * 14, 12, RLELossless)
DEEP = PHANTOM.astype(np.uint16) * 14 + 200  # 12 bits


def decode(data: bytes) -> Decoded:
    return decode_file(data, 100.0)


def alike(found: Decoded) -> float:
    return float(np.corrcoef(found.pixels_HW.ravel().astype(float), PHANTOM.ravel().astype(float))[0, 1])


def rejected(data: bytes) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decode(data)
    return caught.value


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("inverted", [False, True])
def test_polarity_and_range_survive_every_syntax(syntax: str | None, inverted: bool) -> None:
    stored = 4095 - DEEP if inverted else DEEP
    polarity = "MONOCHROME1" if inverted else "MONOCHROME2"
    data = dicom(stored, 12, syntax, PhotometricInterpretation=polarity)
    found = decode(data)
    assert alike(found) > 0.99
    assert found.pixels_HW.min() <= 3
    assert found.pixels_HW.max() >= 252
    assert found.view == "PA"
    assert ("inverted_monochrome1" in found.flags) == inverted
    assert rejected(data[: len(data) // 2]).reason in ("pixel data can't be decoded", "no pixel data", "damaged DICOM")


def test_signed_and_deeper_values_are_read() -> None:
    signed = DEEP.astype(np.int16) - 1024
    assert alike(decode(dicom(signed, 16, PixelRepresentation=1, RescaleIntercept=-10))) > 0.99
    deep = DEEP.astype(np.uint32) * 100_000
    assert alike(decode(dicom(deep, 32))) > 0.99


def test_rescale_turns_polarity_when_its_slope_does() -> None:
    assert alike(decode(dicom(4095 - DEEP, 12, RescaleSlope=-1, RescaleIntercept=4095))) > 0.99


def test_a_window_is_applied_and_a_useless_one_is_not() -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    assert alike(decode(dicom(DEEP, 12, **window))) > 0.95
    spoilt = DEEP.copy()
    spoilt[:2, :2] = 65535
    assert alike(decode(dicom(spoilt, 16, **window))) > 0.95
    for center, width in ((-5000, 1), (60000, 10), (260, 20), (2000, 1)):
        assert alike(decode(dicom(DEEP, 12, WindowCenter=center, WindowWidth=width))) > 0.95, (center, width)


def test_a_lookup_table_is_applied() -> None:
    levels = np.arange(4096, dtype=np.uint16)
    table = sequence(LUTDescriptor=[4096, 0, 12], LUTData=levels.tobytes())
    assert alike(decode(dicom(DEEP, 12, VOILUTSequence=Sequence([table])))) > 0.99


def test_padding_is_black_and_does_not_spoil_the_range() -> None:
    padded = DEEP.copy()
    padded[:, :20] = 4095
    for polarity in ("MONOCHROME1", "MONOCHROME2"):
        stored = padded if polarity == "MONOCHROME2" else np.where(padded == 4095, 4095, 4094 - padded)
        found = decode(dicom(stored, 12, PixelPaddingValue=4095, PhotometricInterpretation=polarity))
        assert found.pixels_HW[:, :20].max() == 0
        assert np.corrcoef(found.pixels_HW[:, 20:].ravel(), PHANTOM[:, 20:].ravel())[0, 1] > 0.99


def test_colour_and_palettes_become_grey() -> None:
    rgb = np.repeat(PHANTOM[..., None], 3, axis=-1)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    assert alike(decode(dicom(rgb, **colour))) > 0.99
    ramp = (np.arange(256, dtype=np.uint16) * 257).tobytes()
    palette = {f"{name}PaletteColorLookupTableData": ramp for name in ("Red", "Green", "Blue")}
    palette |= {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    assert alike(decode(dicom(PHANTOM, PhotometricInterpretation="PALETTE COLOR", **palette))) > 0.99


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"Modality": "CT"}, "modality"),
        ({"Modality": None}, "modality"),
        ({"BodyPartExamined": "KNEE"}, "body part"),
        ({"NumberOfFrames": 2}, "several frames"),
        ({"Rows": 20000, "Columns": 20000}, "too large"),
    ],
)
def test_what_is_no_chest_radiograph_is_refused(header: dict[str, object], reason: str) -> None:
    assert rejected(dicom(DEEP, 12, **header)).reason == reason


def test_constant_pixels_are_refused() -> None:
    assert rejected(dicom(np.full((80, 80), 900, np.uint16), 12)).reason == "constant image"


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_a_spoilt_header_is_read_or_rejected_and_nothing_else(edits: list[tuple[int, int]], compressed: bool) -> None:
    data = bytearray(SMALL_RLE if compressed else SMALL)
    for at, value in edits:
        data[128 + at % (len(data) - 128)] = value
    try:
        found = decode_file(bytes(data), 1.0)
    except Rejected as why:
        assert why.reason
        assert not any(value in str(why) for value in IDENTIFIERS.values())
    else:
        assert found.pixels_HW.dtype == np.uint8


def test_unknown_body_part_and_burnt_in_text_are_flagged() -> None:
    found = decode(dicom(DEEP, 12, BodyPartExamined=None, BurnedInAnnotation="YES"))
    assert found.flags == ["body_part_unknown", "burned_in_annotation"]


def test_a_file_without_the_preamble_is_read() -> None:
    assert alike(decode(dicom(DEEP, 12)[132:])) > 0.99


def test_nothing_of_the_header_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Neither in details of a reject, nor in what pydicom logs about values that it doubts."""
    with caplog.at_level(logging.DEBUG):
        odd = {"StudyInstanceUID": "not.a.uid.MRN-0042-7781", "PatientBirthDate": "3 Feb 1961"}
        told = str(rejected(dicom(DEEP, 12, **odd)[:-900])) + str(rejected(dicom(DEEP, 12, Modality="CT")))
    told += caplog.text
    for value in [*IDENTIFIERS.values(), "Wilhelmina", "3 Feb 1961"]:
        assert value not in told


KEY = Pseudonyms(b"a secret of the hospital")
HEADER = HeaderIds(patient="MRN-42", study="1.2.3.4", exact=("mrn-42", "1.2.3.4", "19610203"), names=("wilhelmina",))


def who(
    path: str, header: HeaderIds | None = HEADER, key: Pseudonyms = KEY, keep_paths: bool = False, **fields: object
) -> tuple[str, ...]:
    row = SourceRow(image_id=path, path=path, dataset="set", **fields)  # pyright: ignore[reportArgumentType]
    found = identify(row, header, key, WriteSettings(keep_paths=keep_paths))
    return found.image_id, found.source_path, found.patient_id, str(found.study_id), found.split, str(found.meta)


@pytest.mark.parametrize("path", ["a.dcm", "deep/MRN-42_1.DCM", "nowhere known/x"])
def test_the_path_of_a_dicom_file_is_a_hash_whatever_it_tells(path: str) -> None:
    image_id, source_path, *_ = who(path)
    assert image_id == source_path == KEY.path(path)
    assert source_path.endswith(".dcm") == path.lower().endswith(".dcm")
    assert who(path, keep_paths=True)[:2] == (path, path), "unless the user says that paths are pseudonymous"
    assert who(path, None)[:2] == (path, path), "a picture's"
    assert who(path, None, among_dicom=True)[:2] == (KEY.path(path), KEY.path(path)), "a picture's among DICOM files"


@pytest.mark.parametrize(
    "keyword", ["PhotometricInterpretation", "PixelRepresentation", "BitsStored", "PlanarConfiguration"]
)
@pytest.mark.parametrize("text", ["WRITTEN^HERE", "WRITTEN'S\nWRITTEN' HERE", "WRITTEN " * 1000])
def test_what_stands_in_place_of_a_number_or_word_is_not_told(keyword: str, text: str) -> None:
    colours = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    file = dcmread(io.BytesIO(dicom(np.stack([PHANTOM] * 3, axis=-1), **colours)))
    file.add_new(keyword, "LT", text)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    with pytest.raises(Rejected) as caught:
        decode_file(buffer.getvalue(), 100.0)
    assert "WRITTEN" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_identifiers_are_hashed_the_same_way_within_a_key() -> None:
    one, two = who("a.dcm"), who("b.dcm")
    assert one[2:5] == two[2:5]
    assert one[2] != who("a.dcm", key=Pseudonyms(b"another secret"))[2]
    assert one[4] == who("a.dcm", key=Pseudonyms(b"another secret"))[4], "the split does not depend on the key"
    assert who("a.dcm", patient_id="MRN-42")[2] == one[2], "the table names the same patient as the header"
    assert who("a.dcm", patient_id="p7", meta={"note": "seen: MRN-42"})[2] == "p7"
    assert "MRN-42" not in who("a.dcm", patient_id="p7", meta={"note": "seen: MRN-42"})[5]


def test_published_pseudonyms_are_kept() -> None:
    assert who("MRN-42/a.dcm", published=True)[:4] == ("MRN-42/a.dcm", "MRN-42/a.dcm", "MRN-42", "None")


def test_a_file_whose_header_cannot_be_read_is_known_as_dicom() -> None:
    whole = dicom(DEEP, 12)
    for data in (whole[:140], whole[:300], whole[:400], b"\0" * 128 + b"DICM" + b"\xff" * 40):
        assert rejected(data).header is not None, "so that its path is hashed"


def test_patients_come_from_folders_named_like_patients() -> None:
    assert who("patient0012/study1/a.png", None)[2] == "patient0012"
    assert who("pneumonia/a.png", None)[2] == "pneumonia/a.png"
