"""Self-supervised world models for radiographs, trained at scale on Ray."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chexworld_ray.training.encoders import load_encoder

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    """`load_encoder` brings torch along, so it is imported when it is asked for."""
    if name == "load_encoder":
        from chexworld_ray.training.encoders import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
