"""Settings: frozen dataclasses that make a JSON round trip and refuse what they do not know.

`Science` is what a result depends on: it must be equal for a run name to be continued.
`Runtime` is where and how fast: it may change from one start to the next.
"""

from chexworld_ray.config.checks import Range
from chexworld_ray.config.records import difference, flat, from_dict, to_dict
from chexworld_ray.config.runtime import RunSettings, Runtime, TrackerKind
from chexworld_ray.config.science import ModelSettings, ObjectiveKind, ObjectiveSettings, OptimSettings, Science
from chexworld_ray.config.views import MaskSettings, ViewSettings

__all__ = [
    "MaskSettings",
    "ModelSettings",
    "ObjectiveKind",
    "ObjectiveSettings",
    "OptimSettings",
    "Range",
    "RunSettings",
    "Runtime",
    "Science",
    "TrackerKind",
    "ViewSettings",
    "difference",
    "flat",
    "from_dict",
    "to_dict",
]
