"""Chests are taken whatever the language of their header, other parts set aside, and what nobody knows is flagged."""

import numpy as np
import pytest
from dicoms import dicom

from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.decode import Decoded, decode_file
from chexworld_ray.shards.ingest import check_settings
from chexworld_ray.shards.rejected import Rejected
from chexworld_ray.shards.settings import CleanSettings, WriteSettings
from chexworld_ray.storage import place

PIXELS = make_phantom(0, 1, 64).image_HW.astype(np.uint16) * 14


def written(part: str, encoding: str = "utf-8", charset: str | None = None) -> bytes:
    """A file whose body part is some letters of an encoding."""
    text = part.encode(encoding)
    text += b" " * (len(text) % 2)
    plain = dicom(PIXELS, 12, BodyPartExamined="PLACEHOLDER1", SpecificCharacterSet=charset)
    return plain.replace(b"CS\x0c\x00PLACEHOLDER1", b"CS" + len(text).to_bytes(2, "little") + text)


def decode(data: bytes, body_parts: tuple[str, ...] | None = None) -> Decoded:
    return decode_file(data, 100.0, body_parts=body_parts)


@pytest.mark.parametrize(
    "part",
    [
        *("CHEST", "chest pa", "PORT CHEST", "CHESTABDOMEN", "THORAX", "LUNGS", "RIBS", "CXR"),
        *("胸部", "胸部X光", "छाती", "वक्ष", "TORAX", "TÓRAX", "Rx de tórax", "PECHO", "POITRINE", "الصدر", "صدر", "বুক"),
        *("PEITO", "ГРУДНАЯ КЛЕТКА", "ОГК", "سینہ", "چھاتی", "TORACE", "BRUSTKORB", "흉부", "Lồng ngực", "GÖĞÜS"),
        *("LRIBS", "CHESTABDPELVIS", "胸腹部", "床头胸片", "手提X光胸部", "胸部正位", "肋骨"),
    ],
)
def test_a_chest_is_taken_in_many_languages(part: str) -> None:
    assert decode(written(part)).flags == []


@pytest.mark.parametrize(
    ("part", "encoding", "charset"),
    [
        ("TÓRAX", "latin-1", None),
        ("TÓRAX", "latin-1", "ISO_IR 100"),
        ("ГРУДНАЯ КЛЕТКА", "iso8859-5", "ISO_IR 144"),
        ("胸部", "gb18030", "GB18030"),
        ("صدر", "iso8859-6", "ISO_IR 127"),
    ],
)
def test_it_is_read_in_the_character_set_of_the_header(part: str, encoding: str, charset: str | None) -> None:
    assert decode(written(part, encoding, charset)).flags == []


BESIDE = [
    "THORACIC",
    "床头",
    "床头片",
    "手提X光",
    "手提",
    "床旁",
    "متقدم",
    "TRUNK",
    "PORTABLE",
    "LATERAL",
    "MOBILE",
    "LT",
    "R",
]


@pytest.mark.parametrize("part", ["UNKNOWN", "RX", "12345", "\\", "\x01\x02", "XYZZY", "ABTEILUNG", *BESIDE])
def test_a_word_that_nobody_knows_is_flagged_as_an_empty_field_is(part: str) -> None:
    assert decode(written(part)).flags == ["body_part_unknown"]
    assert decode(dicom(PIXELS, 12, BodyPartExamined=None)).flags == ["body_part_unknown"]
    assert decode(written(part, charset="no such set")).flags == ["body_part_unknown"]


@pytest.mark.parametrize(
    ("part", "told"),
    [
        *(("KNEE", "KNEE"), ("LEFT KNEE", "KNEE"), ("C_SPINE", "CSPINE"), ("RODILLA", "RODILLA"), ("Mão", "MAO")),
        *(
            ("膝关节", "膝"),
            ("胸椎", "胸椎"),
            ("घुटना", "घुटना"),
            ("الركبة", "ركبة"),
            ("ЧЕРЕП", "ЧЕРЕП"),
            ("SCHÄDEL", "SCHADEL"),
        ),
    ],
)
def test_another_part_is_set_aside_in_many_languages(part: str, told: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode(written(part))
    assert str(caught.value) == f"body part: {told}, not chest; --body-parts names what is taken"


PARTS = """
    KNEES HANDS HIPS FEET WRISTS SHOULDERS ELBOWS ANKLES LUMBAR LUMBOSACRAL SACRUM FIBULA KUB ABD ABDOMINAL SINUS
    SINUSES TEETH TOOTH LEFTKNEE RTHAND RTHANDS LKNEE KNEELT HANDR LT_FEMUR RODILLAS MAMMA UPPER_LIMB LOWERLIMBS
    EXTREMITIES UP_EXM LOW_EXM KIDNEYS RADIUS TIBIAFIBULA TIB_FIB VERTEBRAE THORACIC_SPINE TSPINE T-SPINE THORACICSPINE
    LUMBARSPINE THORACOLUMBAR CERVICAL PELVIC ACJOINT HIP_JOINTS FACIAL_BONES CALVES METATARSALS HEEL TMJ SELLA MANOS
    PIES GENOUX HÄNDE ПОЗВОНОЧНИКА الركبة 左手 右膝 手部 双足正位 腹部 头颅 膝関節 头部X光 胸腰椎 胸骨
"""


@pytest.mark.parametrize("part", PARTS.split())
def test_another_part_is_set_aside_in_the_plural_with_its_side_and_by_its_usual_words(part: str) -> None:
    with pytest.raises(Rejected, match="body part: "):
        decode(written(part))


def test_words_of_the_user_are_found_with_their_side_too() -> None:
    for part in ("KNEE", "KNEES", "LKNEE", "RTKNEE", "BILATERALKNEES"):
        assert decode(written(part), ("KNEE",)).flags == []


def test_words_of_the_user_stand_for_the_lists() -> None:
    assert decode(written("RODILLA IZQ"), ("rodilla", "KNEE")).flags == []
    assert decode(written("JOELHO"), ("rodilla", "JOELHO")).flags == []
    assert decode(written("Rx T"), ("RX T",)).flags == []
    assert decode(written("SOMETHING"), ("KNEE",)).flags == ["body_part_unknown"]
    for part in ("CHEST", "TORAX PA", "HAND"):
        with pytest.raises(Rejected, match=r"body part: .*, not rodilla, KNEE; --body-parts"):
            decode(written(part), ("rodilla", "KNEE"))


@pytest.mark.parametrize("words", [(), ("",), ("CHEST", "  ")])
def test_words_that_would_take_nothing_or_everything_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="--body-parts: one word or several, none of them empty"):
        CleanSettings(body_parts=words)


@pytest.mark.parametrize("modality", ["dx", "Cr", " DX", "rg"])
def test_modalities_are_known_in_any_case(modality: str) -> None:
    assert decode(dicom(PIXELS, 12, Modality=modality)).flags == []
    with pytest.raises(Rejected, match="modality: CT, not one of"):
        decode(dicom(PIXELS, 12, Modality="ct"))


def test_a_release_is_added_to_shards_from_before_there_was_the_setting_but_not_with_other_words() -> None:
    settings = WriteSettings()
    old = manifests.empty(place("somewhere"), {"longest_side": 512, "clean": {"min_side": 64}})
    check_settings(old, settings)
    mine = WriteSettings(clean=CleanSettings(body_parts=("TORAX",)))
    same = manifests.empty(place("somewhere"), {"clean": {"body_parts": ["TORAX"]}})
    check_settings(same, mine)
    with pytest.raises(UserError, match=r"--append: .*somewhere was ingested with other settings: clean"):
        check_settings(old, mine)
