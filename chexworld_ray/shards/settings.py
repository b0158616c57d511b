"""Settings of an ingest. Standard library only: the command line reads this file."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from chexworld_ray.errors import UserError

Dataset = Literal[
    "folder",
    "mimic",
    "chexpert",
    "nih14",
    "vindr",
    "rsna",
    "siim",
    "shenzhen",
    "montgomery",
    "jsrt",
    "chestdr",
]
"""Whose layout a folder has; `folder` is anybody's."""


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """What is refused, and whether black borders go."""

    min_side: int = 64
    """Shortest side of an image, in pixels."""
    max_aspect: float = 4.0
    """Largest ratio of longest to shortest side."""
    min_contrast: float = 1.0
    """Least standard deviation in grey levels of 255; below it an image is constant."""
    max_megapixels: float = 100.0
    """An image that announces more is refused before its pixels are read; a file of more than 2 bytes for each of these
    pixels, and 64 MiB, is not read at all."""
    crop_borders: bool = True
    """Crop black borders."""
    body_parts: tuple[str, ...] | None = None
    """Words of which a DICOM header's body part must have one; case and accents do not count. Unset: chest, lungs and
    ribs in the ten most spoken languages and some more. Other known parts are set aside; an empty field or an unknown
    word is taken and flagged."""
    near_duplicates: int | None = None
    """Also set images aside whose perceptual hash (256 bits) differs from another's in at most so many bits."""

    def __post_init__(self) -> None:
        if self.min_side < 1 or self.max_aspect < 1 or self.min_contrast < 0 or self.max_megapixels <= 0:
            raise UserError(
                "ingest: --min-side and --max-aspect start at 1, --min-contrast at 0, --max-megapixels above 0"
            )
        if self.body_parts is not None and not (self.body_parts and all(word.strip() for word in self.body_parts)):
            raise UserError("--body-parts: one word or several, none of them empty")
        if self.near_duplicates is not None and not 0 <= self.near_duplicates <= 64:
            raise UserError(f"--near-duplicates {self.near_duplicates}: between 0 and 64 of 256 bits")


LATER = frozenset({"body_parts"})
"""Settings that the first programs did not know. At its default each is no part of a fingerprint, so that a data set
of such a program stays complete."""


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """What the pixels and the files of a data set depend on."""

    longest_side: int = 512
    jpeg_quality: int = 95
    row_group_images: int = 128
    file_images: int = 1536
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    keep_paths: bool = False
    check_pictures: bool = True
    clean: CleanSettings = field(default_factory=CleanSettings)

    def __post_init__(self) -> None:
        if self.val_fraction < 0 or self.test_fraction < 0 or self.val_fraction + self.test_fraction >= 1:
            raise UserError("ingest: --val-fraction and --test-fraction start at 0 and leave something for train")
        if self.longest_side < 32:
            raise UserError(f"--longest-side {self.longest_side}: at least 32 pixels")

    def of_data(self) -> dict[str, Any]:
        """What makes a data set another one: not the check of pictures, which changes no pixel and sets nothing aside.
        So a set that was begun without it goes on with it.
        """
        record = asdict(self)
        del record["check_pictures"]
        return record

    @property
    def told(self) -> dict[str, Any]:
        """For fingerprints: what makes a data set another one, but those of `LATER` at their defaults."""
        return _told(self.of_data(), WriteSettings().of_data())


def _told(own: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _told(value, default[name]) if isinstance(value, dict) else value
        for name, value in own.items()
        if name not in LATER or value != default[name]
    }
