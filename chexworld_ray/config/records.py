"""Settings as JSON records, and what differs between two of them."""

import dataclasses
from typing import Any, TypeVar

from chexworld_ray.errors import UserError

T = TypeVar("T")


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain dict of a settings dataclass, ready for `json.dumps`."""
    return dataclasses.asdict(settings)


def from_dict(kind: type[T], record: dict[str, Any], where: str) -> T:
    """Settings from their JSON record.

    Raises:
        UserError: a key is unknown or missing, or a value has the wrong type; `where` is named.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: setting {key[:60]!r}: {first['msg']}") from None


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, as lines 'key: old -> new'. A tuple is a list, as in the record that is made of it."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += difference(before, after, f"{prefix}{key}.")
        elif _plain(before) != _plain(after):
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
