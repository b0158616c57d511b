"""Geometric changes of an image, applied alike to its masks, boxes and landmarks.

Coordinates are continuous: pixel (row r, column c) covers [r, r+1) x [c, c+1).
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

_EXIF = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True)
class Orientation:
    """Transpose, then flip rows, then flip columns."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def from_exif(cls, code: int) -> "Orientation":
        """What EXIF tag 0x0112 asks for; anything out of 2-8 asks for nothing."""
        return cls(*_EXIF.get(code, (False, False, False)))

    def apply(self, image_HW: np.ndarray) -> np.ndarray:
        """The upright image (a view where nothing changes)."""
        image_HW = image_HW.T if self.transpose else image_HW
        image_HW = image_HW[::-1] if self.flip_rows else image_HW
        return image_HW[:, ::-1] if self.flip_columns else image_HW

    def undo(self, upright_HW: np.ndarray) -> np.ndarray:
        """The stored image that `apply` makes this upright one of (a view)."""
        stored_HW = upright_HW[:, ::-1] if self.flip_columns else upright_HW
        stored_HW = stored_HW[::-1] if self.flip_rows else stored_HW
        return stored_HW.T if self.transpose else stored_HW

    def point(self, row: float, col: float, height: int, width: int) -> tuple[float, float]:
        """Where a point of the stored image lands; height and width are those of the upright image."""
        row, col = (col, row) if self.transpose else (row, col)
        return (height - row if self.flip_rows else row), (width - col if self.flip_columns else col)


UPRIGHT = Orientation()


@dataclass(frozen=True)
class Geometry:
    """Orientation, then a crop (top, left, height, width of the upright image), then a resize."""

    orientation: Orientation
    upright: tuple[int, int]
    crop: tuple[int, int, int, int]
    size: tuple[int, int]

    @classmethod
    def plan(
        cls,
        orientation: Orientation,
        upright: tuple[int, int],
        crop: tuple[int, int, int, int],
        longest_side: int,
    ) -> "Geometry":
        """Shrink so that the longest side of the crop is at most `longest_side` pixels; never enlarge."""
        scale = min(1.0, longest_side / max(crop[2:]))
        size = (max(1, round(crop[2] * scale)), max(1, round(crop[3] * scale)))
        return cls(orientation, upright, crop, size)

    def image(self, upright_HW: np.ndarray) -> np.ndarray:
        """The final image from the upright one, by area averaging."""
        return self._cut(upright_HW, cv2.INTER_AREA)

    def mask(self, stored_HW: np.ndarray) -> np.ndarray:
        """The final boolean mask. A mask that has the upright shape already is not turned again."""
        already = stored_HW.shape == self.upright and stored_HW.shape[::-1] != self.upright
        upright_HW = stored_HW if already and self.orientation.transpose else self.orientation.apply(stored_HW)
        if upright_HW.shape != self.upright:
            upright_HW = cv2.resize(
                upright_HW.astype(np.uint8), self.upright[::-1], interpolation=cv2.INTER_NEAREST_EXACT
            )
        return self._cut(upright_HW.astype(np.uint8), cv2.INTER_NEAREST_EXACT) > 0

    def landmark(self, landmark: dict[str, Any]) -> dict[str, Any]:
        """A landmark {name, row, col} in the final image."""
        row, col = self._point(float(landmark["row"]), float(landmark["col"]))
        return {"name": str(landmark["name"]), "row": row, "col": col}

    def box(self, box: dict[str, Any]) -> dict[str, Any]:
        """A box {label, x, y, w, h} in the final image, clipped to it."""
        x, y, w, h = (float(box[key]) for key in ("x", "y", "w", "h"))
        (row0, col0), (row1, col1) = self._point(y, x), self._point(y + h, x + w)
        top, bottom = sorted(float(np.clip(row, 0, self.size[0])) for row in (row0, row1))
        left, right = sorted(float(np.clip(col, 0, self.size[1])) for col in (col0, col1))
        return {"label": str(box["label"]), "x": left, "y": top, "w": right - left, "h": bottom - top}

    def _cut(self, upright_HW: np.ndarray, interpolation: int) -> np.ndarray:
        top, left, height, width = self.crop
        cut_HW = np.ascontiguousarray(upright_HW[top : top + height, left : left + width])
        return cut_HW if cut_HW.shape == self.size else cv2.resize(cut_HW, self.size[::-1], interpolation=interpolation)

    def _point(self, row: float, col: float) -> tuple[float, float]:
        row, col = self.orientation.point(row, col, *self.upright)
        top, left, height, width = self.crop
        return (row - top) * self.size[0] / height, (col - left) * self.size[1] / width
