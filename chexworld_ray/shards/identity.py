"""De-identification: what a DICOM header calls a patient or a study never leaves the decoder as it is.

Identifiers become keyed hashes (HMAC-SHA256): the same patient gets the same name within a data set, and nobody
without the key can tell whose it is or try out names. The key is never stored with the data.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

KEY_VARIABLE = "CHEXWORLD_PATIENT_KEY"
_WORDS = re.compile(r"[^\W_]+")
MIN_NAME = 3  # letters of a part of a name that is looked for in a path


def _stands_alone(value: str, text: str) -> bool:
    """Whether a value occurs in a text without being part of a longer word or number."""
    at = text.find(value)
    while at >= 0:
        around = text[at - 1 : at] + text[at + len(value) : at + len(value) + 1]
        if not any(letter.isalnum() or letter in "_." for letter in around):
            return True
        at = text.find(value, at + 1)
    return False


@dataclass(frozen=True)
class HeaderIds:
    """What a DICOM header says about who and which study; None where it says nothing."""

    patient: str | None = None
    study: str | None = None
    exact: tuple[str, ...] = ()
    """PatientID, accession number, birth date, UIDs: as they stand there."""
    names: tuple[str, ...] = ()
    """Parts of PatientName, lower case."""
    readable: bool = True
    """False where the header is damaged, so that nothing is known."""

    def in_path(self, path: str) -> bool:
        """Whether a path tells one of the identifiers, anywhere in it; True where they are not known."""
        folded = path.casefold()
        return not self.readable or any(value.casefold() in folded for value in self.exact) or self._names_in(path)

    def in_text(self, text: str) -> bool:
        """Whether a text tells one of the identifiers, as a whole or as words of it."""
        folded = text.casefold()
        return any(_stands_alone(value.casefold(), folded) for value in self.exact) or self._names_in(text)

    def _names_in(self, text: str) -> bool:
        words = {word.casefold() for word in _WORDS.findall(text)}
        return any(name in words for name in self.names)


@dataclass(frozen=True)
class Pseudonyms:
    """Names in place of identifiers, under one key."""

    key: bytes

    def name(self, kind: str, value: str) -> str:
        """Keyed hash (24 hexadecimal digits) of an identifier; kinds do not meet one another."""
        return hmac.new(self.key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:24]

    def path(self, path: str) -> str:
        """A keyed hash and the suffix, in place of a path that tells an identifier."""
        stem, dot, suffix = path.rsplit("/", 1)[-1].rpartition(".")
        keeps = stem and suffix.isascii() and suffix.isalpha() and len(suffix) <= 5
        return self.name("path", path) + (dot + suffix.lower() if keeps else "")

    @property
    def fingerprint(self) -> str:
        """Tells whether two keys are the same, and costs time to guess from."""
        return hashlib.pbkdf2_hmac("sha256", self.key, b"chexworld_ray key", 200_000).hex()[:16]
