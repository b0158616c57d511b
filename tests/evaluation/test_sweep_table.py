"""The table of a sweep, from scores whose answer is known."""

import pytest
from scores import start, variant

from chexworld_ray.evaluation.sweep import sweep_rows
from chexworld_ray.reports.text import sweep_table


def test_variants_are_means_over_seeds_compared_with_the_first() -> None:
    rows = sweep_rows([variant("first", 1.0), variant("poor", 0.8), variant("same", 1.0)])
    auroc = {row.encoder: row for row in rows if row.metric == "auroc" and row.task == "here/mean"}
    assert set(auroc) == {"first", "poor", "same"}
    assert all(row.seed is None for row in rows)
    told = {row.encoder: row for row in rows if row.metric == "auroc_difference" and row.task == "here/mean"}
    poor, same = told["poor - first"], told["same - first"]
    assert poor.value == pytest.approx(auroc["poor"].value - auroc["first"].value)
    assert poor.high < 0
    assert auroc["poor"].high > auroc["first"].low, "unpaired, the intervals overlap"
    assert poor.p_holm is not None
    assert poor.p_holm < 0.05
    assert (same.low, same.high) == (0, 0)
    lines = [line for line in sweep_table(rows).splitlines() if line.startswith("here/mean")]
    assert [line.split()[-1] for line in lines if " poor " in line] == ["worse"]
    assert [line.split()[-1] for line in lines if " same " in line] == ["undecided"]


def test_every_variant_is_held_against_what_it_was_before_training() -> None:
    """Two that differ from one another may both have learned nothing, and the table must say so."""
    low, high = start(0.8), start(1.0, "random of large")
    rows = sweep_rows([variant("first", 0.8, low), variant("good", 1.0, low), variant("large", 1.0, high)])
    auroc = {row.encoder: row.value for row in rows if (row.task, row.metric) == ("here/mean", "auroc")}
    assert list(auroc) == ["first", "good", "large", "random", "random of large"]
    told = {row.encoder: row for row in rows if (row.task, row.metric) == ("here/mean", "auroc_difference")}
    assert list(told) == ["good - first", "large - first", "first - random", "good - random", "large - random of large"]
    assert told["good - random"].value == pytest.approx(auroc["good"] - auroc["random"])
    lines = {
        line.split()[4 + 1]: line.split() for line in sweep_table(rows).splitlines() if line.startswith("here/mean")
    }
    words = {name: [word for word in line if word in ("better", "worse", "undecided")] for name, line in lines.items()}
    assert words == {
        "first": ["undecided"],
        "good": ["better", "better"],
        "large": ["undecided", "better"],
        "random": [],
    }


def test_the_floor_makes_no_difference_from_the_first_harder_to_decide() -> None:
    """Two questions are corrected each for itself."""

    def p_values(floor: bool) -> list[float | None]:
        start_of = start(0.9) if floor else None
        rows = sweep_rows([variant("first", 1.0, start_of), variant("poor", 0.9, start_of)])
        return [row.p_holm for row in rows if row.encoder == "poor - first"]

    assert p_values(floor=True) == p_values(floor=False)
