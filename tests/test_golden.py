"""Numbers that any change of the mathematics of training must change: tests/golden/numbers.json.

They say that something changed, not that it is wrong. `python tests/golden/write.py` renews them on purpose.
"""

import json

import pytest
from golden import compare
from golden.compare import EXACT, GROUPS, changes
from golden.inputs import Group


@pytest.mark.parametrize("name", GROUPS)
def test_the_mathematics_of_training_is_what_it_was(name: str) -> None:
    lines = list(changes(compare.read()[name], GROUPS[name].compute(), GROUPS[name].tolerance))
    assert not lines, compare.report(name, lines)


def test_the_file_holds_every_group_and_no_other() -> None:
    assert list(compare.read()) == list(GROUPS)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"rows": [1, 3], "loss": [2.0], "mask": ["ct"]}, "rows, number 1: 2 -> 3"),
        ({"rows": [1, 2], "loss": [2.0002], "mask": ["ct"]}, "loss, number 0: 2 -> 2.0002 (+1.00e-04 of it"),
        ({"rows": [1, 2], "loss": [float("nan")], "mask": ["ct"]}, "loss, number 0: 2 -> nan"),
        ({"rows": [1, 2], "loss": [2.0], "mask": ["cc"]}, "mask, number 0: ct -> cc"),
        ({"rows": [1, 2, 3], "loss": [2.0], "mask": ["ct"]}, "rows: 2 numbers in the file, 3 now"),
        ({"rows": [1, 2], "loss": [2.0]}, "mask: is not computed any more"),
        ({"rows": [1, 2], "loss": [2.0], "mask": ["ct"], "new": [1]}, "new: is not in the file"),
    ],
)
def test_a_changed_number_is_named_with_its_change(now: Group, told: str) -> None:
    before: Group = {"rows": [1, 2], "loss": [2.0], "mask": ["ct"]}
    (line,) = changes(before, now, 1e-5)
    assert line.startswith(told)
    said = compare.report("losses", [line])
    assert line in said
    assert compare.RENEW in said


def test_rounding_is_no_change() -> None:
    assert not list(changes({"loss": [2.0, 0.0]}, {"loss": [2.00001, 0.0]}, 1e-5))
    assert list(changes({"loss": [2.0, 0.0]}, {"loss": [2.00003, 0.0]}, 1e-5))


def test_what_is_written_is_read_as_it_was() -> None:
    groups: dict[str, Group] = {"a": {"rows": [1, 2**63], "loss": [1.0, 1e-6, 1 / 3], "mask": ["c.", ".t"]}}
    read = json.loads(compare.text_of(groups))
    assert not list(changes(read["a"], groups["a"], EXACT))
    assert [type(value) for value in read["a"]["loss"]] == [float] * 3
