"""The README's commands are true: they parse, and their files exist."""

import re
import shlex
from pathlib import Path

from chexworld_ray.cli import COMMANDS, parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Lines of the README's code blocks, continued lines joined."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", README, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def test_the_two_lines_open_the_readme() -> None:
    found = commands()
    assert found[:2] == ["pip install . && chexworld demo", 'pip install ".[dev]" && pytest']


def test_every_chexworld_command_parses() -> None:
    seen = set()
    for line in commands():
        for part in re.split(r"&&|--\s+(?=python)", line):
            words = shlex.split(part)
            if words[:1] == ["python"] and words[1].startswith("jobs/"):
                assert (ROOT / words[1]).is_file()
                words = ["chexworld", Path(words[1]).stem, *words[2:]]
            if words[:1] == ["chexworld"]:
                parse(words[1:])
                seen.add(words[1])
    assert seen == set(COMMANDS)


def test_files_that_the_readme_names_exist() -> None:
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / name).exists(), name
