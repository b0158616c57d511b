"""Pages that compare: a sweep with verdicts and bars, and runs side by side, from scores and records that are known."""

import re
from pathlib import Path

import pytest
from pages import page_of_two, sweep_page, trained

from chexworld_ray.config import Science
from chexworld_ray.errors import UserError
from chexworld_ray.reports.comparison import write_page
from chexworld_ray.shards.manifest import Manifest


def test_a_sweep_tells_what_is_worse_and_what_is_undecided(phantom_set: Manifest, tmp_path: Path) -> None:
    url = sweep_page(tmp_path, phantom_set)
    assert url == str(tmp_path / "s" / "comparison.html")
    page = Path(url).read_text()
    lines = {
        name: re.search(rf"<tr><td>{name}</td>.*?</tr>", page, re.S) for name in ("first", "poor", "same", "random")
    }
    cells = {name: line[0].split("</td>")[1] for name, line in lines.items() if line}
    told = {name: re.findall(r"better|worse|undecided|from its start", cell)[-4:] for name, cell in cells.items()}
    assert told == {
        "first": ["from its start", "better"],
        "poor": ["worse", "worse", "from its start", "undecided"],  # once as the colour of its cell
        "same": ["undecided", "undecided", "from its start", "better"],
        "random": [],
    }
    assert re.search(r"<td>objective.kind</td><td>chexworld</td><td>local</td><td>no_action</td>", page)
    assert "<td>seed</td>" not in page, "seeds are of one variant"
    assert len(re.findall(r"<td title=", page)) == 9, "a line for each run"
    assert "1.5 GiB" in page


def test_runs_are_compared_by_their_own_results(phantom_set: Manifest, tmp_path: Path) -> None:
    page = Path(page_of_two(tmp_path, phantom_set)).read_text()
    shown = re.search(r"<h3>here</h3>.*?</table>", page, re.S)
    assert shown is not None
    assert shown[0].count("<tr>") == 2, "the newest checkpoint of the run that has been evaluated"
    assert re.search(r"<td>seed</td><td>0</td><td>1</td>", page)


def test_what_can_not_be_compared_is_told(phantom_set: Manifest, tmp_path: Path) -> None:
    one = trained(tmp_path / "x" / "one", Science(), phantom_set).root.url
    twin = trained(tmp_path / "y" / "one", Science(), phantom_set).root.url
    for urls, words in (([one, twin], "different names"), ([], "--run"), ([str(tmp_path / "none")], "none")):
        with pytest.raises(UserError, match=words):
            write_page(urls, str(tmp_path / "page.html"))
