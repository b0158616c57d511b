"""What a cell of a table must hold: boxes, landmarks and labels that can be drawn and counted."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from chexworld_ray.shards.source import SourceRow

BOX_KEYS, LANDMARK_KEYS = ("x", "y", "w", "h"), ("row", "col")
FARTHEST = 1e6  # pixels from the corner; no radiograph is so large
LARGEST = 1e30  # labels are stored in single precision


class BadCell(Exception):
    """A cell can't be used: which column, and why. It never quotes the cell."""

    def __init__(self, column: str, why: str) -> None:
        super().__init__(f"column {column!r} {why}")


def json_list(column: str, text: str | None, text_key: str, number_keys: Sequence[str]) -> list[dict[str, Any]]:
    """A cell's JSON list of objects, with these keys and no others.

    Raises:
        BadCell: it is something else.
    """
    try:
        value = json.loads(text) if text else []
    except (ValueError, RecursionError):
        raise BadCell(column, "is not a JSON list") from None
    if not isinstance(value, list):
        raise BadCell(column, "is not a JSON list")
    if (fault := marks_fault(value, text_key, number_keys)) is not None:
        raise BadCell(column, fault)
    return [{key: one[key] for key in (text_key, *number_keys)} for one in value]


def cell_number(column: str, text: str) -> float:
    """The finite number that a cell holds.

    Raises:
        BadCell: it holds none.
    """
    try:
        value = float(text)
    except ValueError:
        raise BadCell(column, "holds no number") from None
    if not abs(value) < LARGEST:
        raise BadCell(column, "holds no finite number")
    return value


def marks_fault(marks: Sequence[Any], text_key: str, number_keys: Sequence[str]) -> str | None:
    """What is wrong with boxes or landmarks; None where nothing is."""
    for at, mark in enumerate(marks, start=1):
        if not isinstance(mark, Mapping):
            return f"entry {at} is no JSON object"
        lacking = [key for key in (text_key, *number_keys) if key not in mark]
        if lacking:
            return f"entry {at} has no {lacking[0]!r}"
        if not _is_text(mark[text_key]):
            return f"entry {at}: {text_key!r} is no text"
        for key in number_keys:
            if not _is_place(mark[key]):
                return f"entry {at}: {key!r} is no number of pixels"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int | float) and not any("\ud800" <= letter <= "\udfff" for letter in str(value))


def _is_place(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and abs(float(value)) <= FARTHEST
    except (TypeError, ValueError, OverflowError):
        return False


def row_fault(row: SourceRow) -> str | None:
    """What is wrong with the cells of any owner's row; None where nothing is."""
    if (fault := marks_fault(row.boxes, "label", BOX_KEYS)) is not None:
        return f"boxes: {fault}"
    if (fault := marks_fault(row.landmarks, "name", LANDMARK_KEYS)) is not None:
        return f"landmarks: {fault}"
    wrong = [name for name, value in row.labels.items() if not math.isfinite(value)]
    return f"label {wrong[0]!r} is no finite number" if wrong else None
