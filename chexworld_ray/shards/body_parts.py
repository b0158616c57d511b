"""Which part of the body a DICOM header names, in the languages that hospitals write there.

The standard's words are English (PS3.16 annex L), but a technician's are not. A word of no list is no reason to lose
a good image: it is in doubt, as an empty field is.
"""

import contextlib
import re
import unicodedata
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydicom.charset import convert_encodings, decode_bytes

from chexworld_ray.shards.identity import folded

if TYPE_CHECKING:
    from pydicom import Dataset

_LONGEST = 128  # letters that are looked at; the standard allows 16
_SHORT = 4  # letters of a word that may be a part of many others
_BETWEEN = re.compile(r"[\s\d_^/\\,.;:()+-]+")
_SIDES = ("left", "right", "lt", "rt", "both", "bilateral", "izq", "der", "l", "r")
_BEFORE = (*_SIDES, "ال")  # the Arabic article is written with its word
_PLURALS = (("s", ""), ("es", ""), ("ies", "y"))
_ENDS = ("spine", "joint")  # what is in front of them only tells which
_HAN = "[⺀-鿿]"

CHEST = """
    chest, thorax, lung, rib, cxr, pcxr, pulmo,
    torax, torace, toraks, pecho, peito, petto, poitrine, poumon, polmon, costilla, costela, brustkorb,
    胸部, 胸片, 胸腔, 胸廓, 胸腹, 胸正, 胸侧, 肋骨, 肺, छाती, वक्ष, सीना, फेफड़,
    صدر, رئة, رئتين, سینہ, سینه, چھاتی, پھیپھڑ, বুক, বক্ষ, ফুসফুস,
    грудная клетка, грудной клетки, грудь, огк, легкие, легких, грудна клітка, легені,
    흉부, 가슴, 폐, paru-paru, dada, gogus, akciger, nguc, phoi, klatka piersiowa, borstkas, kifua, θωρακ, hrudnik,
    mellkas, brostkorg, rintakeha
"""
"""Chest, lungs and ribs: the ten most spoken languages (English, Chinese, Hindi, Spanish, French, Arabic, Bengali,
Portuguese, Russian, Urdu), then others."""

OTHER = """
    abd, abdo, abdomen, abdomenpelvis, abdominal, acetabulum, adrenal, ankle, antebrachium, anus, aorta, appendix,
    arm, axilla, axillae, back, bladder, boneage, bowel, brain, breast, bronchus, buttock, calcaneum, calcaneus,
    calf, calves, carotid, carpal, carpus, cerebellum, cervical, cervicothoracic, cervix, cheek, clavicle, coccyx,
    colon, cornea, cranial, cranium, cspine, ctspine, dental, digit, duodenum, ear, elbow, esophagus, extremity,
    extremeties, extremety, eye, eyelid, face, facial, facialbone, feet, femoral, femora, femur, fetus, fibula,
    finger, foot, forearm, forefoot, gallbladder, gluteus, groin, hallux, hand, head, headneck, heart, heel,
    hindfoot, hip, humeral, humeri, humerus, iac, ileum, iliac, ilium, intestine, ischium, jaw, jejunum, joint,
    kidney, knee, kub, larynx, leg, limb, lip, liver, longbone, lowerleg, lowerlimb, lowexm, lspine, lsspine,
    lumbar, lumbosacral, mamma, mammae, mammary, mammo, mandible, mastoid, maxilla, mediastinum, metacarpal,
    metacarpus, metatarsal, metatarsus, molar, mouth, nasal, nasopharynx, neck, nose, odontoid, olecranon, orbit,
    ovary, pancreas, panoramic, paranasal, parotid, patella, patellae, pelvic, pelvis, penis, perineum, phalanges,
    phalanx, pharynx, prostate, pubis, radius, radiusulna, rectum, renal, sacral, sacroiliac, sacrum, scalp,
    scaphoid, scapula, scapulae, sclera, scoliosis, scrotum, sella, sesamoid, shoulder, sinus, skull, spinal, spine,
    spleen, sspine, sternal, sternum, stomach, submandibular, symphysis, talus, tarsal, tarsus, teeth,
    temporomandibular, testicle, testes, testis, thigh, thoracolumbar, thumb, thymus, thyroid, tibfib, tibia,
    tibiafibula, tlspine, tmj, toe, tongue, tooth, trachea, tspine, ulna, umbilicus, upexm, upperarm, upperlimb,
    ureter, urethra, urinary, uterus, vagina, vertebra, vertebrae, vertebral, vulva, wholebody, wrist, zygoma,
    zygomatic,
    rodilla, mano, muneca, codo, hombro, cadera, pie, tobillo, craneo, columna, cuello, pierna, brazo, dedo, mama,
    genou, genoux, main, poignet, coude, epaule, hanche, pied, cheville, crane, rachis, colonne, bassin, jambe,
    bras, doigt, cervicale, lombaire,
    joelho, mao, maos, punho, cotovelo, ombro, quadril, tornozelo, cranio, coluna, bacia, perna, braco,
    ginocchio, ginocchia, mani, piedi, polso, gomito, spalla, anca, piede, caviglia, colonna, bacino, gamba, addome,
    knie, handgelenk, hande, ellbogen, ellenbogen, schulter, hufte, huefte, fuss, fusse, sprunggelenk, schadel,
    schaedel, wirbelsaule, wirbelsaeule, becken, bauch, kopf, hws, bws, lws,
    колено, колена, колени, коленный, коленного, кисть, кисти, стопа, стопы, череп, черепа, таз, таза, плечо, плеча,
    позвоночник, позвоночника, живот, живота, бедро, бедра, голень, голени, локоть,
    膝, 手, 足, 脚, 颅, 頭, 头, 腹, 腰, 颈, 肩, 肘, 腕, 踝, 髋, 骶, 牙, 乳腺, 乳房, 骨盆, 颈椎, 頸椎, 腰椎, 胸椎,
    脊柱, 脊椎, 骶骨, 尾骨, 股骨, 胫骨, 腓骨, 肱骨, 尺骨, 桡骨, 锁骨, 胸骨, 鼻骨, 鼻窦, 下颌, 股関節, 头颅, 头颈,
    手掌, 手指, 手腕, 足趾, 膝盖, 肩胛, 前臂, 上肢, 下肢, 四肢, 全腹, 腹腔, 腹盆,
    घुटना, हाथ, पैर, सिर, पेट, रीढ़, कंधा, ركبة, قدم, جمجمة, بطن, كتف, حوض, গোড়ালি, হাঁটু, হাত, মাথা, পেট, گھٹنا,
    ہاتھ, پیٹ
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

    Upper and lower case and accents do not count, and a word that is wanted may be a part of a longer one: CHESTPA,
    PORTCHEST. Another part's word stands by itself, but may be a plural, or have its side before or behind it.
    """
    texts = [folded(text) for text in _spellings(header)]
    words = _CHEST if wanted is None else frozenset(folded(word.strip()) for word in wanted)
    if _found(texts, words, _held) or _found(texts, words, _named):
        return BodyPart("wanted", "")
    named = _found(texts, _OTHER, _named) or _found(texts, _CHEST, _held)
    return BodyPart("other", named.upper()) if named else BodyPart("unknown", "")


def _found(texts: list[str], words: frozenset[str], standing: Callable[[str, frozenset[str]], AbstractSet[str]]) -> str:
    return next((word for text in texts for word in sorted(standing(text, words))), "")


def _held(text: str, words: frozenset[str]) -> AbstractSet[str]:
    """The words that a text has anywhere; a short one at the beginning of one of its words (RIBS, not DISTRIBUTION)."""
    parts = [*_BETWEEN.split(text), text]
    return {
        word
        for word in words
        if (any(part.startswith(word) for part in parts) if len(word) <= _SHORT and word.isascii() else word in text)
    }


def _named(text: str, words: frozenset[str]) -> AbstractSet[str]:
    """The words that a text has by themselves."""
    forms = _forms(text)
    return (words & forms) | {word for word in words if not _is_alphabetic(word) and _joined(text, forms, word)}


def _forms(text: str) -> AbstractSet[str]:
    """The words of a text, and all of them as one, also without plural and side (LEFTKNEE, RTHANDS, FEMURL)."""
    parts = [part for part in _BETWEEN.split(text) if part]
    forms: set[str] = set()
    for part in (*parts, "".join(parts)):
        forms |= {part, *(end for end in _ENDS if part.endswith(end))}
        forms |= {part.removeprefix(side) for side in _BEFORE} | {part.removesuffix(side) for side in _SIDES}
    return forms | {form[: -len(end)] + one for form in forms for end, one in _PLURALS if form.endswith(end)}


def _is_alphabetic(word: str) -> bool:
    return unicodedata.name(word[0], "").startswith(("LATIN", "CYRILLIC", "GREEK"))


def _joined(text: str, forms: AbstractSet[str], word: str) -> bool:
    """Whether a word of a script that joins words begins one. A Chinese one stands anywhere; of one character by itself
    or before what makes it a part of the body, for 床头 is a bedside and 手提 portable.
    """
    if not unicodedata.name(word[0], "").startswith("CJK"):
        return any(form.startswith(word) for form in forms)
    if len(word) > 1:
        return word in text
    alone = rf"(?:(?<!{_HAN})|(?<=[左右双雙两兩])){word}(?:(?!{_HAN})|[正侧側斜轴平片])"
    return re.search(rf"{alone}|{word}(?:部|关节|關節|関節|骨|椎)", text) is not None


def _spellings(header: "Dataset") -> list[str]:
    """The text as it was read; where it has letters that no such field may have, also in UTF-8 and in the header's
    character set.
    """
    value: Any = header.get("BodyPartExamined")
    several = list(value) if type(value).__name__ == "MultiValue" else [value]
    text = " ".join(str(one) for one in several if one)[:_LONGEST].strip(
        " \0\t\r\n"
    )  # other blanks of Latin-1 are parts of letters
    found = [text] if text else []
    if not text.isascii():
        with contextlib.suppress(UnicodeError):  # pydicom reads code strings as Latin-1
            found.append(text.encode("latin-1").decode("utf-8"))
        with contextlib.suppress(Exception):  # a damaged or unknown character set makes pydicom raise anything
            found.append(
                decode_bytes(text.encode("latin-1"), convert_encodings(header["SpecificCharacterSet"].value), set())
            )
    return found
