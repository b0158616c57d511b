"""Which part of the body a DICOM header names, in the languages that hospitals write there.

The standard's words are English (PS3.16 annex L), but a technician's are not. A word of no list is no reason to lose
a good image: it is in doubt, as an empty field is.
"""

import contextlib
import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydicom.charset import convert_encodings, decode_bytes

from chexworld_ray.shards.identity import folded

if TYPE_CHECKING:
    from pydicom import Dataset

_LONGEST = 128  # letters that are looked at; the standard allows 16
_SHORT = 4  # letters of a word that may be a part of many others
_BETWEEN = re.compile(r"[\s\d_^/\\,.;:()+-]+")

CHEST = """
    chest, thorax, lung, rib, cxr, pcxr, pulmo,
    torax, torace, toraks, pecho, peito, petto, poitrine, poumon, polmon, costilla, costela, brustkorb,
    胸部, 胸片, 胸腔, 胸廓, 肺, छाती, वक्ष, सीना, फेफड़,
    صدر, رئة, رئتين, سینہ, سینه, چھاتی, پھیپھڑ, বুক, বক্ষ, ফুসফুস,
    грудная клетка, грудной клетки, грудь, огк, легкие, легких, грудна клітка, легені,
    흉부, 가슴, 폐, paru-paru, dada, gogus, akciger, nguc, phoi, klatka piersiowa, borstkas, kifua, θωρακ, hrudnik,
    mellkas, brostkorg, rintakeha
"""
"""Chest, lungs and ribs: the ten most spoken languages (English, Chinese, Hindi, Spanish, French, Arabic, Bengali,
Portuguese, Russian, Urdu), then others."""

OTHER = """
    abdomen, abdomenpelvis, adrenal, ankle, aorta, arm, axilla, back, bladder, brain, breast, bronchus, buttock,
    calcaneus, calf, carotid, cerebellum, cervix, cheek, clavicle, coccyx, colon, cspine, ctspine, duodenum, ear, elbow,
    esophagus, extremity, eye, eyelid, face, femur, finger, foot, forearm, gallbladder, hand, head, headneck, heart,
    hip, humerus, ileum, ilium, jaw, jejunum, kidney, knee, larynx, leg, liver, lspine, lsspine, mandible, maxilla,
    mediastinum, mouth, neck, nose, orbit, ovary, pancreas, parotid, patella, pelvis, penis, pharynx, prostate, rectum,
    scalp, scapula, sclera, scrotum, shoulder, skull, spine, spleen, sspine, sternum, stomach, thigh, thumb, thymus,
    thyroid, tibia, toe, tongue, trachea, tspine, tlspine, ulna, ureter, urethra, uterus, vagina, vulva, wholebody,
    wrist, zygoma,
    rodilla, mano, muneca, codo, hombro, cadera, pie, tobillo, craneo, columna, cuello, pierna, brazo, dedo,
    genou, main, poignet, coude, epaule, hanche, pied, cheville, crane, rachis, colonne, bassin, jambe, bras, doigt,
    joelho, mao, punho, cotovelo, ombro, quadril, tornozelo, cranio, coluna, bacia, perna, braco,
    ginocchio, polso, gomito, spalla, anca, piede, caviglia, colonna, bacino, gamba, addome,
    knie, handgelenk, ellbogen, ellenbogen, schulter, hufte, huefte, fuss, sprunggelenk, schadel, schaedel,
    wirbelsaule, wirbelsaeule, becken, bauch, kopf,
    колено, коленный, кисть, стопа, череп, таз, плечо, позвоночник, живот, бедро, голень, локоть,
    膝, 手, 足, 颅, 頭, 头, 骨盆, 腹, 肩, 肘, 腕, 踝, 髋, 颈椎, 腰椎, 胸椎, 脊柱, 乳,
    घुटना, हाथ, पैर, सिर, पेट, रीढ़, कंधा, ركبة, قدم, جمجمة, بطن, كتف, حوض, গোড়ালি, হাঁটু, হাত, মাথা, পেট, گھٹنا, ہاتھ, پیٹ
"""
"""Parts that are no chest: the standard's words, then the most usual ones in these languages."""


def _words(text: str) -> frozenset[str]:
    return frozenset(folded(word.strip()) for word in text.split(",") if word.strip())


_CHEST, _OTHER = _words(CHEST), _words(OTHER)


class BodyPart(NamedTuple):
    """What a header's body part is for an ingest."""

    kind: Literal["wanted", "other", "unknown"]
    word: str
    """Of another part, the word of our lists that names it: what else stands there may be anything and is not told."""


def body_part(header: "Dataset", wanted: tuple[str, ...] | None) -> BodyPart:
    """Whether a header names a part that is wanted (by words; None: the chest), another one, or none that is known.

    Upper and lower case and accents do not count, and a word may be a part of a longer one: CHESTPA, PORTCHEST.
    """
    texts = [folded(text) for text in _spellings(header)]
    words = _CHEST if wanted is None else frozenset(folded(word.strip()) for word in wanted)
    if _found(texts, words, _holds):
        return BodyPart("wanted", "")
    named = _found(texts, _OTHER, _names) or _found(texts, _CHEST, _holds)
    return BodyPart("other", named.upper()) if named else BodyPart("unknown", "")


def _found(texts: list[str], words: frozenset[str], stands: Callable[[str, str], bool]) -> str:
    return next((word for text in texts for word in sorted(words) if stands(text, word)), "")


def _holds(text: str, word: str) -> bool:
    """Whether a text has a word anywhere; a short one at the beginning of one of its words (RIBS, not DISTRIBUTION)."""
    if len(word) > _SHORT or not word.isascii():
        return word in text
    return any(part.startswith(word) for part in _BETWEEN.split(text)) or word == text


def _names(text: str, word: str) -> bool:
    """Whether a text has a word by itself; in scripts that join words, or have no spaces, anywhere."""
    if not unicodedata.name(word[0], "").startswith(("LATIN", "CYRILLIC", "GREEK")):
        return word in text
    parts = _BETWEEN.split(text)
    return word in parts or word == "".join(parts)


def _spellings(header: "Dataset") -> list[str]:
    """The text as it was read; where it has letters that no such field may have, also in UTF-8 and in the header's
    character set.
    """
    value: Any = header.get("BodyPartExamined")
    several = list(value) if type(value).__name__ == "MultiValue" else [value]
    text = " ".join(str(one) for one in several if one)[:_LONGEST].strip()
    found = [text] if text else []
    if not text.isascii():
        with contextlib.suppress(UnicodeError):  # pydicom reads code strings as Latin-1
            found.append(text.encode("latin-1").decode("utf-8"))
        with contextlib.suppress(Exception):  # a damaged or unknown character set makes pydicom raise anything
            found.append(
                decode_bytes(text.encode("latin-1"), convert_encodings(header["SpecificCharacterSet"].value), set())
            )
    return found
