"""De-identification: what a DICOM header calls a patient or a study never leaves the decoder as it is.

Identifiers become keyed hashes (HMAC-SHA256): the same patient gets the same name within a data set, and nobody
without the key can tell whose it is or try out names. The key is never stored with the data.
"""

import calendar
import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass
from datetime import date

from chexworld_ray.shards.source import known_suffix

KEY_VARIABLE = "CHEXWORLD_PATIENT_KEY"
_WORDS = re.compile(r"[^\W_]+")
MIN_NAME, MIN_INSIDE = 3, 4  # letters of a part of a name, and of other identifiers, that are looked for in a text
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i", "þ": "th", "ð": "d"})
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})


def folded(text: str, umlauts: bool = False) -> str:
    """Lower case without accents; `umlauts` spells them with a second letter, as travel documents do."""
    lower = unicodedata.normalize("NFC", text.casefold())
    lower = lower.translate(_UMLAUTS) if umlauts else lower
    plain = unicodedata.normalize("NFKD", lower.translate(_LETTERS))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def dates(value: str) -> set[str]:
    """The ways a date (YYYYMMDD) is written, folded; itself alone where it is none."""
    digits = "".join(letter for letter in value if letter.isdigit())
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return {folded(value)}
    parts = {"d": str(day.day), "dd": f"{day.day:02d}", "m": str(day.month), "mm": f"{day.month:02d}"}
    year = f"{day.year:04d}"
    found = {digits[:8], f"{parts['dd']}{parts['mm']}{year}", f"{parts['mm']}{parts['dd']}{year}"}
    for one, other in ((parts["d"], parts["m"]), (parts["dd"], parts["mm"])):
        for mark in "-./ ":
            found |= {mark.join(order) for order in ((year, other, one), (one, other, year), (other, one, year))}
            found |= {mark.join(order) for order in ((one, other, year[2:]), (other, one, year[2:]))}
        for month in (calendar.month_name[day.month].lower(), calendar.month_abbr[day.month].lower()):
            found |= {f"{one} {month} {year}", f"{one}. {month} {year}", f"{one}-{month}-{year}", f"{one}{month}{year}"}
            found |= {f"{month} {one} {year}", f"{month} {one}, {year}", f"{month} {one}th, {year}"}
    return found | {folded(value)}


def _stands_alone(value: str, text: str) -> bool:
    """Whether a value occurs in a text without being part of a longer word or number."""
    at = text.find(value)
    while at >= 0:
        before, after = text[:at][-1:], text[at + len(value) :][:2]
        inside = before.isalnum() or before in ("_", ".") or after[:1].isalnum() or after[:1] == "_"
        if not inside and not (after[:1] == "." and after[1:].isalnum()):
            return True
        at = text.find(value, at + 1)
    return False


@dataclass(frozen=True)
class HeaderIds:
    """What a DICOM header says about who and which study; nothing where it is damaged."""

    patient: str | None = None
    study: str | None = None
    exact: tuple[str, ...] = ()
    """Numbers of the patient and the study, addresses, telephones, UIDs, dates of birth as they are written; folded."""
    names: tuple[str, ...] = ()
    """Parts of the names of all persons, folded."""
    joined: tuple[str, ...] = ()
    """The parts of each name in one word, folded."""

    def in_text(self, text: str) -> bool:
        """Whether a text tells one of the identifiers, as a whole or as words of it."""
        plain, spelled = folded(text), folded(text, umlauts=True)
        words = {*_WORDS.findall(plain), *_WORDS.findall(spelled)}
        squeezed = "".join(_WORDS.findall(plain))
        return (
            any(value == plain or (len(value) >= MIN_INSIDE and _stands_alone(value, plain)) for value in self.exact)
            or any(len(name) >= MIN_NAME and name in words for name in self.names)
            or any(len(name) > MIN_NAME and name in squeezed for name in self.joined)
        )


@dataclass(frozen=True)
class Pseudonyms:
    """Names in place of identifiers, under one key."""

    key: bytes

    def name(self, kind: str, value: str) -> str:
        """Keyed hash (24 hexadecimal digits) of an identifier; kinds do not meet one another."""
        return hmac.new(self.key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:24]

    def path(self, path: str) -> str:
        """A keyed hash and the suffix, in place of a path that may tell an identifier."""
        return self.name("path", path) + known_suffix(path)

    @property
    def fingerprint(self) -> str:
        """Tells whether two keys are the same, and costs time to guess from."""
        return hashlib.pbkdf2_hmac("sha256", self.key, b"chexworld_ray key", 200_000).hex()[:16]
