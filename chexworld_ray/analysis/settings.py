"""Which analyses, on how many images: every field is an option of `chexworld analyze`. Standard library only."""

from dataclasses import dataclass
from typing import Literal, get_args

from chexworld_ray.errors import UserError

Analysis = Literal["retrieval", "correspondence", "layout", "pictures", "capacity"]
ANALYSES: tuple[Analysis, ...] = get_args(Analysis)


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """All of it."""

    only: str = ",".join(ANALYSES)
    """Comma-separated: retrieval, correspondence, layout, pictures, capacity."""
    images: int = 128
    """Images that are looked at, but for `capacity`; `retrieval` and `layout` take some 400 passes through encoder and
    predictor each."""
    candidates: int = 64
    """Actions (retrieval) and offsets (layout) that the true one is told from."""
    split: str = "test"
    """Split that is looked at."""
    train_split: str = "train"
    """Split that the probe for the hospital and the decoder are fitted on."""
    decoder_images: int = 1024
    """Images that the decoder of `pictures` is fitted on."""
    decoder_steps: int = 1500
    """Its steps, of 32 images: about two minutes on CPU cores."""

    def __post_init__(self) -> None:
        if self.candidates < 6 or self.images < 1:
            raise UserError("analyze: --candidates must be at least 6, --images at least 1")

    @property
    def analyses(self) -> tuple[Analysis, ...]:
        """The analyses named.

        Raises:
            UserError: one is not known.
        """
        names = self.only.split(",")
        if unknown := [name for name in names if name not in ANALYSES]:
            raise UserError(f"--only {unknown[0]}: no such analysis; there are {', '.join(ANALYSES)}")
        return tuple(name for name in ANALYSES if name in names)
