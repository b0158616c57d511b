"""The table of a sweep, from scores whose answer is known."""

import pytest
from scores import variant

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
