"""The audit trail: what weights have seen is found whatever was rolled back on the way."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexworld_ray.errors import UserError
from chexworld_ray.storage import place
from chexworld_ray.training.seen import Attempt, Seen, lineage, write_seen


def rows(attempt: str, rank: int, start: int, stop: int) -> Seen:
    seen = Seen(attempt, rank)
    if stop > start:
        seen.add(np.arange(start, stop), [f"image-{at % 7}" for at in range(start, stop)])
    return seen


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=8))
def test_each_image_once_in_the_lineage_of_the_last_weights(
    tmp_path_factory: pytest.TempPathFactory, starts: list[tuple[int, int]]
) -> None:
    """Each start writes some checkpoints of ten images; the next goes on from an earlier one than the newest."""
    run = place(str(tmp_path_factory.mktemp("run")))
    before, at = "", 0
    for number, (checkpoints, back) in enumerate(starts):
        attempt = Attempt(f"a{number}", before, at)
        began = at
        for _ in range(checkpoints):
            write_seen(run, attempt, at + 10, rows(attempt.name, 0, at, at + 10).take())
            at += 10
        if number < len(starts) - 1:
            at = max(began + 10, at - 10 * back)  # torn ones are passed over
        before = attempt.name
    found = lineage(run, before, at)
    assert found["position"].to_pylist() == list(range(at))
    assert found["image_id"].to_pylist() == [f"image-{position % 7}" for position in range(at)]


def test_padding_is_no_image_and_rows_are_taken_once() -> None:
    seen = Seen("a", 3)
    seen.add(np.array([4, 5, -1]), ["x", "y", ""])
    table = seen.take()
    assert table.to_pylist() == [
        {"attempt": "a", "rank": 3, "position": 4, "image_id": "x"},
        {"attempt": "a", "rank": 3, "position": 5, "image_id": "y"},
    ]
    assert seen.take().num_rows == 0


def test_a_run_without_a_record_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--record-seen"):
        lineage(place(str(tmp_path)), "a", 10)
