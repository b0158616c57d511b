"""What is kept of an evaluation has a name that changes with all that it depends on, and with nothing else."""

import ast
import importlib
import inspect
from dataclasses import replace
from types import ModuleType
from typing import get_args

import pytest

from chexworld_ray.evaluation import augment, features, fit, linear
from chexworld_ray.evaluation.dependence import MODULES, features_key, scores_key
from chexworld_ray.evaluation.settings import (
    EvaluationSettings,
    FinetuneSettings,
    FitSettings,
    GridSettings,
    Protocol,
    SegmentSettings,
)
from chexworld_ray.evaluation.tasks import Task
from chexworld_ray.evaluation.trial import Trial
from chexworld_ray.metrics import knn

PLAIN = EvaluationSettings()
HERE = Task(name="here", dataset="here")
NO_PART = {"classification", "settings", "tasks", "trial"}
"""Imported by what computes, and no part of it: metrics of scores, and what the key holds by itself."""


def key(
    protocol: Protocol,
    settings: EvaluationSettings = PLAIN,
    *,
    size: int | None = None,
    encoder: str = "a",
    predictor: str | None = None,
    task: Task = HERE,
    draw: int = 0,
) -> str:
    trial = Trial(task=task, protocol=protocol, draw=draw)
    return scores_key(trial, settings, size, encoder, predictor)


@pytest.mark.parametrize("protocol", get_args(Protocol))
def test_every_constant_of_what_computes_a_score_is_in_its_name(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(protocol)
    assert key(protocol) == before
    for module in MODULES[protocol]:
        names = [
            name for name in vars(module) if name.isupper() and isinstance(vars(module)[name], int | float | tuple)
        ]
        assert "VERSION" in names, module.__name__
        for name in names:
            with monkeypatch.context() as changed:
                changed.setattr(module, name, 77)
                assert key(protocol) != before, f"{module.__name__}.{name}"
    assert key(protocol) == before


@pytest.mark.parametrize(
    ("module", "name", "touched"),
    [
        (knn, "NEIGHBOURS", {"knn"}),
        (knn, "TEMPERATURE", {"knn"}),
        (linear, "PENALTIES", {"linear", "fewshot", "finetune"}),
        (augment, "MARGIN", {"finetune", "segment"}),
        (fit, "VERSION", {"attentive", "finetune", "segment"}),
        (features, "VERSION", set(get_args(Protocol))),
    ],
)
def test_a_constant_renames_the_scores_of_the_protocols_that_use_it_and_no_others(
    module: ModuleType, name: str, touched: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {protocol: key(protocol) for protocol in get_args(Protocol)}
    monkeypatch.setattr(module, name, 3)
    assert {protocol for protocol in before if key(protocol) != before[protocol]} == touched


def test_settings_weights_task_and_draw_are_in_the_name() -> None:
    short = FitSettings(epochs=2)
    others = [
        key("finetune", replace(PLAIN, finetune=FinetuneSettings(fit=short))),
        key("finetune", replace(PLAIN, grid=GridSettings(lrs=(1e-4,)))),
        key("finetune", replace(PLAIN, train_split="val")),
        key("finetune", size=64),
        key("finetune", encoder="b"),
        key("finetune", predictor="b"),
        key("finetune", task=replace(HERE, otherwise="one")),
        key("finetune", draw=1),
    ]
    assert len({key("finetune"), *others}) == 9
    assert key("finetune", replace(PLAIN, segment=SegmentSettings(fit=short))) == key("finetune"), "not its own"


def test_features_have_the_name_of_the_weights_that_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = features_key("a")
    assert features_key("b") != before
    monkeypatch.setattr(features, "VERSION", 2)
    assert features_key("a") != before


@pytest.mark.parametrize("protocol", get_args(Protocol))
def test_no_module_that_takes_part_is_left_out(protocol: Protocol) -> None:
    """Whatever these modules import of the rooms that score must be among them."""
    listed = {module.__name__ for module in MODULES[protocol]}
    for module in MODULES[protocol][1:]:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            name = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if name.startswith(("chexworld_ray.evaluation.", "chexworld_ray.metrics.")):
                importlib.import_module(name)
                assert name in listed or name.rpartition(".")[2] in NO_PART, f"{module.__name__} imports {name}"
