"""What is kept of an evaluation has a name that changes with all that it depends on, and with nothing else."""

import ast
import inspect
from dataclasses import make_dataclass, replace
from types import ModuleType
from typing import Any, get_args

import pytest

from chexworld_ray.config import ViewSettings
from chexworld_ray.evaluation import augment, dependence, features, fit, linear, trial
from chexworld_ray.evaluation.dependence import FEATURES, MODULES, features_key, scores_key
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
from chexworld_ray.metrics import classification, knn
from chexworld_ray.models import backbone
from chexworld_ray.views import batch, crops

PLAIN = EvaluationSettings()
HERE = Task(name="here", dataset="here")
TOLD = {"chexworld_ray.evaluation.settings", "chexworld_ray.evaluation.tasks"}
"""Imported by what computes, and in the key by their values."""
OF_VERSION = {f"chexworld_ray.models.{name}" for name in ("device", "positions", "predictor", "tensors", "weights")} | {
    f"chexworld_ray.views.{name}" for name in ("actions", "masks", "relative")
}
"""Told by VERSION of `models.backbone` and `views.batch`, which take little of them."""
DERIVED = {"SCORES_SCHEMA", "_OWN_SIZE", "_MORE_CORNERS"}
"""The form of a file of scores, and what is made of other constants."""


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
    asked = Trial(task=task, protocol=protocol, draw=draw)
    return scores_key(asked, settings, size, encoder, predictor)


def constants_of(module: ModuleType) -> list[str]:
    """All that a module binds by an assignment, whatever it calls it, but for types."""
    found = []
    for node in ast.parse(inspect.getsource(module)).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found += [target.id for target in targets if isinstance(target, ast.Name)]
    kinds = {name for name in found if isinstance(vars(module)[name], type) or get_args(vars(module)[name])}
    return [name for name in found if name not in kinds | DERIVED]


def other_than(value: Any) -> Any:
    """Another value of that kind."""
    if isinstance(value, dict):
        return {**value, "more": 1}
    return value + type(value)(value[:1] if isinstance(value, tuple | list) else 1)


@pytest.mark.parametrize("protocol", get_args(Protocol))
def test_every_constant_of_what_computes_a_score_is_in_its_name(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(protocol)
    assert key(protocol) == before
    for module in MODULES[protocol]:
        names = constants_of(module)
        assert "VERSION" in names, module.__name__
        for name in names:
            with monkeypatch.context() as changed:
                changed.setattr(module, name, other_than(vars(module)[name]))
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
        (backbone, "VERSION", set(get_args(Protocol))),
        (batch, "VERSION", set(get_args(Protocol))),
        (crops, "ATTEMPTS", {"finetune", "segment"}),
        (classification, "VERSION", {"knn", "linear", "fewshot", "attentive", "finetune"}),
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
    for module in FEATURES:
        with monkeypatch.context() as changed:
            changed.setattr(module, "VERSION", 77)
            assert features_key("a") != before, module.__name__


class Read:
    """Settings that remember what was read of them."""

    def __init__(self, settings: ViewSettings) -> None:
        self.settings, self.names = settings, set[str]()

    def __getattr__(self, name: str) -> object:
        self.names.add(name)
        return getattr(self.settings, name)


def test_of_the_settings_of_training_the_name_holds_what_a_random_crop_reads_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = Read(ViewSettings(crop_sizes="own", crop_overlap=(0.4, 0.6)))
    for position in range(20):
        crops.crop_boxes(100, 300, read, 0, position)  # pyright: ignore[reportArgumentType]
    before = {protocol: key(protocol) for protocol in get_args(Protocol)}
    others: dict[str, Any] = {"crop_scale": (0.1, 1.0), "crop_ratio": (0.5, 2.0), "crop_sizes": "own"}
    others |= {"crop_overlap": (0.5, 1.0)}
    assert read.names == others.keys()
    for name, value in (others | {"jitter": 0.1, "blur_side": 96}).items():
        plain = replace(ViewSettings(), **{name: value})
        monkeypatch.setattr(dependence, "ViewSettings", lambda plain=plain: plain)
        renamed = {protocol for protocol in before if key(protocol) != before[protocol]}
        assert renamed == ({"finetune", "segment"} if name in read.names else set()), name
    later = make_dataclass("Later", [("warp", float, 0.5)], bases=(ViewSettings,), frozen=True, kw_only=True)
    monkeypatch.setattr(dependence, "ViewSettings", later)
    assert {protocol: key(protocol) for protocol in before} == before


@pytest.mark.parametrize("protocol", get_args(Protocol))
def test_no_module_that_takes_part_is_left_out(protocol: Protocol) -> None:
    """Whatever these modules import of the rooms that score must be among them."""
    listed = {module.__name__ for module in MODULES[protocol]}
    every = {module.__name__ for modules in MODULES.values() for module in modules}
    for module in MODULES[protocol]:
        elsewhere = every if module in (trial, batch) else set[str]()  # their other functions are of other protocols
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            name = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if name.startswith(
                tuple(f"chexworld_ray.{room}." for room in ("evaluation", "metrics", "models", "views"))
            ):
                assert name in listed | TOLD | OF_VERSION | elsewhere, f"{module.__name__} imports {name}"
