"""Random numbers of one purpose never are those of another."""

import ast
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import chexworld_ray
from chexworld_ray.config import ViewSettings
from chexworld_ray.hashing import Purpose, generator, hash_integers
from chexworld_ray.shards.plan import Plan, RowGroup
from chexworld_ray.views.crops import crop_boxes

PACKAGE = Path(chexworld_ray.__file__).parent
WITHOUT = {"hashing.py", "metrics/bootstrap.py", "shards/codestreams.py", "benchmarks/step.py"}
PICTURES = {"benchmarks/picture_material.py", "benchmarks/picture_training.py"}
"""The table itself; the bootstrap, whose stream has no purpose and is nobody else's; bytes and pixels of constants.
Phantoms and what the look at pictures learns from are data: their seed is not a run's, and their streams are told apart
where they are made."""


def test_no_two_purposes_are_equal() -> None:
    names = Purpose.__members__
    assert len({int(purpose) for purpose in names.values()}) == len(names)


def test_purposes_of_training_keep_their_numbers() -> None:
    """Runs that have begun go on with them."""
    told = ["CROP", "JITTER", "ACTION", "NOISE", "BLOCKS", "TOKEN_CHOICE", "FLIP", "SIGREG", "PLAN_GROUPS", "PLAN_ROWS"]
    assert [int(Purpose[name]) for name in told] == list(range(1, 11))


@pytest.mark.parametrize("seed", [0, 7])
def test_streams_of_two_purposes_share_nothing(seed: int) -> None:
    drawn = {purpose: set(hash_integers(seed, 3, purpose, np.arange(500)).tolist()) for purpose in Purpose}
    rows = {purpose: generator(seed, purpose).random(8).tolist() for purpose in Purpose}
    for one, other in combinations(Purpose, 2):
        assert not drawn[one] & drawn[other]
        assert rows[one] != rows[other]


def test_the_order_of_an_epoch_tells_nothing_of_the_crops_at_its_number() -> None:
    """It was sorted by the very numbers that place the crops of the image at position = epoch."""

    agree = {}
    for version in (1, 2):
        plan = Plan(tuple(RowGroup("file", at, 1) for at in range(4)), 0, 8_000, version)
        orders = [plan.epoch_windows(epoch)[0].groups for epoch in range(60)]
        corners = [hash_integers(0, position, Purpose.CROP, np.arange(4)) for position in range(60)]
        agree[version] = sum(
            order == tuple(np.argsort(drawn).tolist()) for order, drawn in zip(orders, corners, strict=True)
        )
    assert agree[1] == 60, "so old runs go on"
    assert agree[2] < 10, "of 60 orders of four, two or three are equal by chance"


def test_every_generator_in_the_package_has_a_purpose_of_the_table() -> None:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = str(file.relative_to(PACKAGE))
        if name in WITHOUT | PICTURES or name.startswith("phantoms/"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("default_rng"):
                found.append(f"{name}:{node.lineno}")
    assert not found


def test_a_fit_and_pretraining_crop_differently() -> None:
    views = ViewSettings()
    for position in range(5):
        boxes = [crop_boxes(300, 300, views, 0, position, purpose) for purpose in (Purpose.CROP, Purpose.FIT_CROP)]
        assert not np.array_equal(*boxes)
