"""What every command needs: how a last JSON line is printed, how URLs are listed."""

import json
from typing import Any

import tyro

UNPREFIXED = tyro.conf.arg(name="")


def json_line(record: dict[str, Any]) -> None:
    """The last thing on stdout, where --json was asked for."""
    print(json.dumps(record))  # noqa: T201


def urls(text: str) -> list[str]:
    """Addresses of a comma-separated list."""
    return [url for url in text.split(",") if url]
