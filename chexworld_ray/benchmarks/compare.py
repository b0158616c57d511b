"""A result against an earlier one."""

from typing import Any


def ratios(now: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Each number over its earlier value, where both have one that is not 0; nested objects are compared too."""
    compared: dict[str, Any] = {}
    for key, value in now.items():
        before = earlier.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := ratios(value, before):
                compared[key] = inner
        elif _is_number(value) and _is_number(before) and before:
            compared[key] = round(value / before, 4)
    return compared


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
