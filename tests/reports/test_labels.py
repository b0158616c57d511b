"""Names that strangers chose, in figures and pages: text, whatever they hold."""

import io
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import looked_at
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from pages import page_of_two
from PIL import Image

from chexworld_ray.analysis.embeddings import Neighbour
from chexworld_ray.analysis.outcome import Outcome
from chexworld_ray.evaluation.results import ResultRow
from chexworld_ray.evaluation.results_file import read_results, write_results
from chexworld_ray.reports import page
from chexworld_ray.reports.analyses import DRAWN
from chexworld_ray.reports.bars import bars
from chexworld_ray.reports.comparison import write_page
from chexworld_ray.reports.figures import auroc_curves, compared_curves, to_png, to_svg
from chexworld_ray.reports.neighbours import neighbours_picture
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import place

HOSTILE = {
    "formula": r"$\frac{",
    "money": "1$ to 2$, 50 %, _under_ ^ {x}",
    "underscore": "_hidden",
    "markup": "</svg><script>alert(1)</script>--><img src=x onerror=alert(1)>&amp;",
    "long": "pneumonia " * 5000,
    "lines": "a\n" * 500,
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u202egnp.exe",
    "control": "a\x00b\x1b[31mc\x07\x7f\u2028\ud800",
    "empty": "",
}


def rows_of(name: str) -> list[ResultRow]:
    row = ResultRow(
        encoder=f"{name}@100",
        task=f"{name}/{name}",
        protocol="knn",
        fraction=1.0,
        seed=0,
        draw=0,
        metric="auroc",
        value=0.7,
        low=0.6,
        high=0.8,
        n=40,
        positives=20,
        train=9,
        val=9,
        redrawn=0,
        run=name,
        images_seen=100,
    )
    difference = replace(row, encoder=f"{name}@100 - random", metric="auroc_difference", p_holm=0.01)
    return [replace(row, encoder=f"{name}@0", images_seen=0), row, difference]


def drawn(name: str) -> list[str]:
    """Every figure that shows a name from outside."""
    record = {"loss": 0.4, "target_rankme_centred": 9.0, "images_seen": 10}
    other = {"loss": 0.5, "target_rankme_centred": 8.0, "images_seen": 20}
    found = [bars(rows_of(name)), auroc_curves(rows_of(name)), compared_curves([(name, [record, other])])]
    buffer = io.BytesIO()
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(buffer, format="JPEG")
    near = Neighbour(0.5, name, name, buffer.getvalue())
    assert neighbours_picture(buffer.getvalue(), [near, near])[:4] == b"\x89PNG"
    return [svg for svg in found if svg is not None]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = drawn(name)
    assert len(figures) == 3
    for svg in figures:
        svg.encode()
        assert len(svg) < 400_000
        assert not set(svg) & set("\x00\x1b\x07\x7f\u202e\u2028")
        assert "<script" not in svg
        if name == HOSTILE["formula"]:
            assert r"<!-- $\frac{" in svg
    if name == HOSTILE["underscore"]:
        assert name in "".join(figures[2:])


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=40))
def test_any_name_can_be_drawn(name: str) -> None:
    figure = Figure(figsize=(2, 2))
    figure.suptitle(name)
    to_svg(figure, name).encode()


def test_numbers_of_logarithmic_axes_are_no_formulas() -> None:
    outcome = Outcome("capacity", "t", ["a"], [], "n", curves={"x": [0.9, 0.09, 0.009]})
    figure = Figure()
    axis = figure.subplots()
    DRAWN["capacity"](axis, outcome)
    to_png(figure)
    told = [tick.get_text() for side in (axis.xaxis, axis.yaxis) for tick in side.get_ticklabels()]
    assert "0.01" in told
    assert not [text for text in told if "$" in text]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def hostile_page(folder: Path, data: Manifest) -> Path:
    """Of two runs whose results carry every hostile name."""
    page_of_two(folder, data)
    out = place(str(folder / "a"))
    rows = [replace(row, run="a") for name in HOSTILE.values() for row in rows_of(name) if "\ud800" not in name]
    write_results(out, [*read_results(out), *(replace(row, encoder=f"a@{row.images_seen}") for row in rows)])
    return Path(write_page([str(folder / "a"), str(folder / "b")], str(folder / "page.html")))


def test_a_page_of_hostile_names_runs_and_fetches_nothing(phantom_set: Manifest, tmp_path: Path) -> None:
    text = hostile_page(tmp_path, phantom_set).read_text()
    tags = _Tags()
    tags.feed(text)
    names = [tag for tag, _ in tags.found]
    assert not {"script", "iframe", "object", "embed", "link", "form", "base"} & set(names)
    assert not [given for _, given in tags.found for key in given if key.startswith("on")]
    (policy,) = [given["content"] for tag, given in tags.found if given.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["style-src"] == "'unsafe-inline'"
    assert names.index("meta") < names.index("style"), "a policy holds for what comes after it"
    assert "\u202e" not in text


@pytest.mark.slow
def test_a_page_of_hostile_names_reads_well_in_a_browser(phantom_set: Manifest, tmp_path: Path) -> None:
    looked_at([hostile_page(tmp_path, phantom_set)], tmp_path)


def test_every_kind_of_page_has_the_policy() -> None:
    folder = Path(page.__file__).parent
    pages = [file for file in folder.glob("*.j2") if file.name not in ("base.html.j2", "parts.html.j2")]
    assert pages
    assert all(file.read_text().startswith('{% extends "base.html.j2" %}') for file in pages)
