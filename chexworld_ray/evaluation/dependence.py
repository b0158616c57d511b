"""What features and scores depend on, as hashes: what is kept under one is never taken for what another would give.

Constants are gathered from the modules that compute, so that a new one can't be forgotten; each of these modules has a
VERSION for what is no constant. Left out is what changes rounding only: the processor, and versions of libraries.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from types import ModuleType
from typing import Any

from chexworld_ray.config import ViewSettings
from chexworld_ray.evaluation import attentive, augment, examples, features, finetune, fit, head, linear, segment, trial
from chexworld_ray.evaluation.settings import EvaluationSettings, Protocol
from chexworld_ray.evaluation.trial import Trial
from chexworld_ray.metrics import knn, segmentation

MODULES: Mapping[Protocol, tuple[ModuleType, ...]] = {
    "knn": (trial, examples, features, knn),
    "linear": (trial, examples, features, linear),
    "fewshot": (trial, examples, features, linear),
    "attentive": (trial, examples, features, attentive, fit),
    "finetune": (trial, examples, features, finetune, head, linear, augment, fit),
    "segment": (trial, examples, features, segment, segmentation, augment, fit),
}
"""What computes the scores of a protocol."""


def features_key(encoder: str) -> str:
    """Of the features (or tokens) that an encoder, told by its sha256, gives."""
    return _digest([encoder, _constants([features])])


def scores_key(
    asked: Trial, settings: EvaluationSettings, image_size: int | None, encoder: str, predictor: str | None
) -> str:
    """Of the scores of a trial. `encoder`, `predictor`: sha256 of their files; None where no predictor takes part."""
    own = asdict(settings).get(asked.protocol)
    grid = asdict(settings.grid) if asked.protocol == "finetune" else None
    modules = MODULES[asked.protocol]
    views = asdict(ViewSettings()) if augment in modules else None  # random crops take what they don't set from there
    weights = [encoder, predictor]
    return _digest([asdict(asked), settings.splits, own, grid, image_size, weights, views, _constants(modules)])


def _constants(modules: Iterable[ModuleType]) -> dict[str, Any]:
    return {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, bool | int | float | str | tuple)
    }


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
