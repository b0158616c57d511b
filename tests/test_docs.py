"""The pages under docs/ are true: all their commands parse. `runtime/test_tour.py` runs them."""

import re
import shlex
from pathlib import Path

from chexworld_ray.cli import parse

ROOT = Path(__file__).parents[1]
TOUR = ("own-data", "evaluation", "analyses", "elasticity", "cluster", "performance")


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.S)


def test_every_page_is_in_the_tour_and_named_by_the_one_before() -> None:
    assert {file.stem for file in (ROOT / "docs").glob("*.md")} == set(TOUR)
    assert f"docs/{TOUR[0]}.md" in (ROOT / "README.md").read_text()
    for page in TOUR:
        for name in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "docs" / f"{page}.md").read_text()):
            assert (ROOT / "docs" / name).exists(), f"{page}: {name}"


def test_every_command_parses() -> None:
    found = [block for page in TOUR for kind in ("sh", "sh cluster") for block in blocks(page, kind)]
    lines = [line for block in found for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("chexworld ")]
    assert len(commands) >= 26
    for words in commands:
        parse(words[1:])
