"""The pages under docs/ are true: they run as they stand, one after the other, in an empty folder; commands that need a
cluster or a file of somebody else's only parse.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from chexworld_ray.cli import parse

ROOT = Path(__file__).parents[1]
TOUR = ("own-data", "evaluation", "analyses", "elasticity", "cluster", "performance")
MADE = (
    "views.png",
    "runs/first/report.html",
    "runs/first/analyses/layout.png",
    "nearest.png",
    "runs/cut/metrics.jsonl",
    "runs/two/metrics.jsonl",
)


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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_tour_runs(tmp_path: Path) -> None:
    tools = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for page in TOUR:
        script = "".join(blocks(page, "sh"))
        done = subprocess.run(
            ["bash", "-euxc", script], cwd=tmp_path, env=os.environ | tools, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{page}: {done.stderr[-3000:]}"
    for made in MADE:
        assert (tmp_path / made).is_file(), made
