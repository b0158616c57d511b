"""What an uncertain, an empty and a missing label count as: the task says it, and nothing else is learned from."""

from dataclasses import replace

import numpy as np
import pytest

from chexworld_ray.evaluation.examples import Examples, known, outputs_of, truths
from chexworld_ray.evaluation.settings import UncertainPolicy
from chexworld_ray.evaluation.tasks import Task

NAN = float("nan")
CELLS = np.array([1.0, 0.0, -1.0, NAN])
PART = Examples([*"abcd"], [*"abcd"], {"here": CELLS, "kind": np.array([2.0, 0.0, 1.0, NAN])})


@pytest.mark.parametrize(("policy", "uncertain"), [("ignore", NAN), ("one", 1.0), ("zero", 0.0)])
@pytest.mark.parametrize(("empty_is_zero", "empty"), [(False, NAN), (True, 0.0)])
@pytest.mark.parametrize("by_name", [True, False])
def test_each_cell_is_what_the_task_takes_it_for(
    policy: UncertainPolicy, uncertain: float, empty_is_zero: bool, empty: float, by_name: bool
) -> None:
    others: UncertainPolicy = "one" if policy == "zero" else "zero"
    task = Task(name="mine", dataset="mine", empty_is_zero=empty_is_zero, otherwise=others if by_name else policy)
    if by_name:
        task = replace(task, uncertain={"here": policy})
    wanted = np.array([1.0, 0.0, uncertain, empty])
    values, rows = known(PART, "here", task)
    assert rows.tolist() == np.flatnonzero(np.isfinite(wanted)).tolist()
    assert values.tolist() == wanted[rows].tolist()
    truth_NC = truths(PART, [outputs_of([PART], replace(task, labels=("here",)))[0]], task)
    assert np.array_equal(truth_NC[:, 0], wanted, equal_nan=True)
    assert np.array_equal(PART.labels["here"], CELLS, equal_nan=True), "the owner's values stay"


def test_an_image_of_unknown_class_is_no_negative_of_any() -> None:
    task = Task(name="mine", dataset="mine", labels=("kind", "absent"))
    outputs = outputs_of([PART], task)
    assert [output.name for output in outputs[0]] == ["kind=0", "kind=1", "kind=2"]
    truth_NC = truths(PART, outputs, task)
    assert truth_NC[:3, :3].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert np.isnan(truth_NC[3]).all()
    assert np.isnan(truth_NC[:, 3]).all(), "nobody has looked for it"
