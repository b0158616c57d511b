"""The demo, and the pages under docs/: they run in an empty folder, one after the other. Commands that need a cluster
or a file of somebody else's only parse (`test_docs.py`).
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_docs import TOUR, blocks

from chexworld_ray.cli import main

NIGHTLY = ("elasticity", "performance")  # the other pages need nothing of them, and other tests show what they say
MADE = (
    "views.png",
    "runs/first/report.html",
    "runs/first/analyses/layout.png",
    "nearest.png",
)
MADE_NIGHTLY = ("runs/cut/metrics.jsonl", "runs/two/metrics.jsonl")


def bash(script: str, folder: Path) -> None:
    """Run it as a user would, in a shell of its own."""
    tools = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-euxc", script]
    done = subprocess.run(command, cwd=folder, env=os.environ | tools, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_tour_runs_on_one_ray(ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this program run in this process, so that none starts a Ray of its own; all others in a shell."""
    monkeypatch.chdir(tmp_path)
    for page in TOUR:
        if page in NIGHTLY:
            continue
        for line in "".join(blocks(page, "sh")).splitlines():
            words = shlex.split(line)
            if words[:1] == ["chexworld"]:
                assert main(words[1:]) == 0, f"{page}: {line}"
            else:
                bash(line, tmp_path)
    for made in MADE:
        assert (tmp_path / made).is_file(), made


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_the_tour_runs_as_it_stands(tmp_path: Path) -> None:
    for page in TOUR:
        bash("".join(blocks(page, "sh")), tmp_path)
    for made in MADE + MADE_NIGHTLY:
        assert (tmp_path / made).is_file(), made


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_goes_from_nothing_to_a_report(ray_here: None, tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--images", "120"]) == 0
    complete(tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_demo_as_it_stands(tmp_path: Path) -> None:
    """With a Ray of its own, and as many images as it has by default."""
    command = [sys.executable, "-m", "chexworld_ray", "demo", "--out", str(tmp_path / "demo")]
    subprocess.run(command, check=True, cwd=tmp_path)
    complete(tmp_path)


def complete(folder: Path) -> None:
    """A page and rows of both protocols, and nothing beside the folder that was asked for."""
    page = (folder / "demo" / "report.html").read_text()
    assert "world-model@random" in page
    rows = pq.read_table(folder / "demo" / "results.parquet").to_pylist()
    assert {row["protocol"] for row in rows} == {"knn", "linear"}
    assert {path.name for path in folder.iterdir()} == {"demo"}
