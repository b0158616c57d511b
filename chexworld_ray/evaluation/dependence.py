"""What features and scores depend on, as hashes: what is kept under one is never taken for what another would give.

Constants are gathered from the modules that compute, so that a new one can't be forgotten; each of these modules has a
VERSION for what is no constant, and for what it takes from below (decoders, random numbers, the layers of an encoder).
Left out is what changes rounding only: the processor, and versions of libraries.
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
from chexworld_ray.metrics import classification, knn, segmentation
from chexworld_ray.models import backbone
from chexworld_ray.views import batch, crops

FEATURES = (features, backbone, batch)
"""What computes the features (or tokens) of an image."""
_ALL = (trial, examples, *FEATURES)
MODULES: Mapping[Protocol, tuple[ModuleType, ...]] = {
    "knn": (*_ALL, classification, knn),
    "linear": (*_ALL, classification, linear),
    "fewshot": (*_ALL, classification, linear),
    "attentive": (*_ALL, classification, attentive, fit),
    "finetune": (*_ALL, classification, finetune, head, linear, augment, crops, fit),
    "segment": (*_ALL, segment, segmentation, augment, crops, fit),
}
"""What computes the scores of a protocol."""


def features_key(encoder: str) -> str:
    """Of the features (or tokens) that an encoder, told by its sha256, gives."""
    return _digest([encoder, _constants(FEATURES)])


def scores_key(
    asked: Trial, settings: EvaluationSettings, image_size: int | None, encoder: str, predictor: str | None
) -> str:
    """Of the scores of a trial. `encoder`, `predictor`: sha256 of their files; None where no predictor takes part."""
    own = asdict(settings).get(asked.protocol)
    grid = asdict(settings.grid) if asked.protocol == "finetune" else None
    modules = MODULES[asked.protocol]
    box = _of_crops() if crops in modules else None
    weights = [encoder, predictor]
    return _digest([asdict(asked), settings.splits, own, grid, image_size, weights, box, _constants(modules)])


def _of_crops() -> dict[str, Any]:
    """Defaults of pretraining that `crop_boxes` reads: random crops take from there what evaluation does not set."""
    return {name: value for name, value in asdict(ViewSettings()).items() if name.startswith("crop_")}


def _constants(modules: Iterable[ModuleType]) -> dict[str, Any]:
    return {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, bool | int | float | str | tuple | list | dict)
    }


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
