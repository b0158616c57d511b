"""Words of tables and headers that stand for nothing, for yes, for no and for uncertain.

What stands for nothing: all that pandas reads as missing (`pandas.read_csv`, `na_values`), R's NA, the dot of SAS and
Stata, the question mark of Weka, errors of Excel, and a few words of people.
"""

import re

_NOTHING = frozenset(
    {"", "nan", "-nan", "na", "n/a", "n.a.", "<na>", "none", "null", "nil", "nat", "#n/a", "#n/a n/a", "#na"}
    | {"-1.#ind", "-1.#qnan", "1.#ind", "1.#qnan", "#null!", "#value!", "#div/0!", "#ref!", "#name?", "#num!"}
    | {".", "?", "unknown", "missing", "not available", "not applicable"}
)
_NOBODY = frozenset({"anonymous", "anonymized", "anonymised", "anon", "deidentified", "de-identified"})

# 1,000 is a thousand where others write 1.000, so it is neither
_VALUE = re.compile(r"(?:(?P<minus>-)|\+)?(?P<digit>[01])(?:\.0*|,(?!000(?!0))0*)?(?:e[+-]?0+)?")
_WORDS = {"true": 1.0, "yes": 1.0, "positive": 1.0, "pos": 1.0, "present": 1.0, "uncertain": -1.0} | {
    "false": 0.0,
    "no": 0.0,
    "negative": 0.0,
    "neg": 0.0,
    "absent": 0.0,
}
PAIRS = (("t", "f"), ("y", "n"))
"""Letters for yes and no. Each alone may mean something else: F is a sex, too."""
_LETTERS = {letter: value for pair in PAIRS for letter, value in zip(pair, (1.0, 0.0), strict=True)}


def says_nothing(text: str) -> bool:
    """Whether a cell, without surrounding blanks, is empty or a word for that."""
    return text.casefold() in _NOTHING


def names_nobody(text: str) -> bool:
    """Whether an id, without surrounding blanks, is none: a word for nothing or nobody, or without letter and digit."""
    return says_nothing(text) or text.casefold() in _NOBODY or not any(map(str.isalnum, text))


def word_of_label(text: str) -> float | None:
    """1, 0 or -1 written as a word or letter; None for anything else."""
    word = text.casefold()
    return _WORDS.get(word, _LETTERS.get(word))


def value_of_label(text: str) -> float | None:
    """1, 0 or -1 written as a number, word or letter; None for anything else."""
    found = _VALUE.fullmatch(text.casefold())
    if found is None:
        return word_of_label(text)
    return -1.0 if found["minus"] and found["digit"] == "1" else float(found["digit"])
