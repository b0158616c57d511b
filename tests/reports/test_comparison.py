"""Pages that compare: a sweep with verdicts and bars, and runs side by side, from scores and records that are known."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from browser import looked_at
from scores import variant

from chexworld_ray.config import RunSettings, Science
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import result_rows, write_results
from chexworld_ray.evaluation.sweep import sweep_rows
from chexworld_ray.recipes import demo, variants
from chexworld_ray.reports.comparison import write_page
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import place
from chexworld_ray.training.log import RunLog
from chexworld_ray.training.run import Run, open_or_create

RECORD = {"loss": 0.4, "rankme": 9.0, "images_per_second": 30.0, "wait_fraction": 0.25, "workers": 2, "memory_gib": 1.5}


def trained(root: Path, science: Science, data: Manifest) -> Run:
    """A run's record with a training curve."""
    run = open_or_create(place(str(root)), replace(RunSettings(), science=science), [data], 64)
    with RunLog(run.root, 0, tensorboard=False) as log:
        for seen in (100, 200, 300):
            log.write(RECORD | {"images_seen": seen, "loss": 0.4 + science.seed / 10})
    return run


@pytest.fixture
def a_sweep(phantom_set: Manifest, tmp_path: Path) -> Path:
    kinds = {"first": "chexworld", "poor": "local", "same": "no_action"}
    for name, kind in kinds.items():
        settings = variants([kind], demo())[kind]
        for seed in range(3):
            trained(tmp_path / "s" / f"{name}-{seed}", replace(settings.science, seed=seed), phantom_set)
    rows = sweep_rows([variant("first", 1.0), variant("poor", 0.8), variant("same", 1.0)])
    write_results(place(str(tmp_path / "s")), rows)
    return tmp_path / "s"


def test_a_sweep_tells_what_is_worse_and_what_is_undecided(a_sweep: Path, tmp_path: Path) -> None:
    url = write_page([str(a_sweep)], None)
    assert url == str(a_sweep / "comparison.html")
    page = Path(url).read_text()
    lines = {name: re.search(rf"<tr><td>{name}</td>.*?</tr>", page, re.S) for name in ("first", "poor", "same")}
    told = {name: set(re.findall(r"better|worse|undecided", line[0])) for name, line in lines.items() if line}
    assert told == {"first": set(), "poor": {"worse"}, "same": {"undecided"}}
    assert re.search(r"<td>objective.kind</td><td>chexworld</td><td>local</td><td>no_action</td>", page)
    assert "<td>seed</td>" not in page, "seeds are of one variant"
    assert len(re.findall(r"<td title=", page)) == 9, "a line for each run"
    assert "1.5 GiB" in page
    looked_at(Path(url), tmp_path)


def test_runs_are_compared_by_their_own_results(phantom_set: Manifest, tmp_path: Path) -> None:
    runs = [
        trained(tmp_path / name, replace(Science(), seed=seed), phantom_set) for seed, name in enumerate(("a", "b"))
    ]
    trials = [replace(trial, run="a") for trial in variant("a", 1.0).trials[:1]]
    write_results(runs[0].root, result_rows([*trials, *(replace(trial, images_seen=50) for trial in trials)]))
    out = tmp_path / "both.html"
    write_page([run.root.url for run in runs], str(out))
    page = out.read_text()
    shown = re.search(r"<h3>here</h3>.*?</table>", page, re.S)
    assert shown is not None
    assert shown[0].count("<tr>") == 2, "the newest checkpoint of the run that has been evaluated"
    assert re.search(r"<td>seed</td><td>0</td><td>1</td>", page)
    looked_at(out, tmp_path)


def test_what_can_not_be_compared_is_told(phantom_set: Manifest, tmp_path: Path) -> None:
    one = trained(tmp_path / "x" / "one", Science(), phantom_set).root.url
    twin = trained(tmp_path / "y" / "one", Science(), phantom_set).root.url
    for urls, words in (([one, twin], "different names"), ([], "--run"), ([str(tmp_path / "none")], "none")):
        with pytest.raises(UserError, match=words):
            write_page(urls, str(tmp_path / "page.html"))
