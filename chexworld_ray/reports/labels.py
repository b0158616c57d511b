"""Names out of tables and records, as a figure or a page may show them."""

import re

LONGEST = 100  # characters of a line in a figure
LINES = 4
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]"
)
HIDDEN = "\ufffd"


def visible(text: str) -> str:
    """Without what is not seen but changes how its surroundings are read: control characters, changes of direction."""
    return _CONTROL.sub(HIDDEN, text)


def short(text: str) -> str:
    """`visible`, and no more than fits into a figure."""
    lines = visible(text).split("\n")[:LINES]
    return "\n".join(line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…" for line in lines)
