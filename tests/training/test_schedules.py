"""How much of its start a target encoder still is, and what is said of it."""

import pytest
import torch

from chexworld_ray import recipes
from chexworld_ray.config import OptimSettings
from chexworld_ray.training.ema import update_target
from chexworld_ray.training.schedules import LARGEST_MEMORY, ema_momentum, memory_lines, target_memory


def test_target_memory_is_what_is_left_of_the_start() -> None:
    """Of a target that started at 1 and follows an encoder of zeros."""
    optim = OptimSettings(ema=(0.9, 1.0))
    target, encoder = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    for module, value in ((target, 1.0), (encoder, 0.0)):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, value)
    for step in range(25):
        assert target_memory(optim, 10 * step, 400, 10) == pytest.approx(float(target.weight[0, 0].detach()), rel=1e-5)
        update_target(target, encoder, ema_momentum(optim, 10 * step, 400))


@pytest.mark.parametrize(
    ("name", "images"), [("demo", 326), ("small", 1379), ("chexworld_base", 500_000)], ids=lambda value: str(value)
)
def test_a_recipe_leaves_nothing_of_its_random_start(name: str, images: int) -> None:
    """At the size that it is made for: the demo's own phantoms, a small hospital, the paper's data."""
    science = recipes.by_name(name).science
    total = science.total_batches(images) * science.global_batch
    assert target_memory(science.optim, total, total, science.global_batch) < LARGEST_MEMORY
    assert len(memory_lines(science.optim, total, science.global_batch)) == 1


def test_a_run_too_short_for_its_target_is_told_how_long_it_should_be() -> None:
    """600 steps of `small`: what once decided three defaults."""
    optim = recipes.by_name("small").science.optim
    said, warning = memory_lines(optim, 9_600, 16)
    assert said.startswith("target_memory 0.3: ")
    assert "30 % its start" in warning
    wanted = int(warning.partition("too few for it, ")[2].split()[0])
    assert target_memory(optim, 16 * wanted, 16 * wanted, 16) <= LARGEST_MEMORY
    assert len(memory_lines(OptimSettings(ema=(1.0, 1.0)), 9_600, 16)) == 2, "a target that never moves"
