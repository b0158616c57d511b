"""Coordinates and soft shapes on a square picture."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

SHIFT = 4  # fractional bits of OpenCV's line drawing


@dataclass(frozen=True)
class Canvas:
    """A picture of size x size pixels, posed: rotated (radians), scaled and shifted against the field of view."""

    size: int
    rotation: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def _fields(self) -> tuple[np.ndarray, np.ndarray]:
        line = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size
        u, v = np.meshgrid(2.0 * line - 1.0, 2.0 * line - 1.0)
        u, v = (u - self.shift[0]) / self.scale, (v - self.shift[1]) / self.scale
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        return (cos * u + sin * v).astype(np.float32), (0.5 + 0.5 * (-sin * u + cos * v)).astype(np.float32)

    @property
    def x(self) -> np.ndarray:
        """x (-1 to 1) of each pixel."""
        return self._fields[0]

    @property
    def y(self) -> np.ndarray:
        """y (0 to 1) of each pixel."""
        return self._fields[1]

    @property
    def pixel(self) -> float:
        """Height of a pixel in y."""
        return 1.0 / (self.size * self.scale)

    def to_pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(column, row) of points."""
        v = 2.0 * y - 1.0
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        u, v = cos * x - sin * v, sin * x + cos * v
        u, v = u * self.scale + self.shift[0], v * self.scale + self.shift[1]
        return (u + 1.0) * 0.5 * self.size, (v + 1.0) * 0.5 * self.size

    def stroke(self, x: np.ndarray, y: np.ndarray, width: float, softness: float) -> np.ndarray:
        """Soft band along a curve; width and softness in y units."""
        columns, rows = self.to_pixels(np.asarray(x), np.asarray(y))
        picture = np.zeros((self.size, self.size), np.uint8)
        points = np.rint(np.stack([columns, rows], axis=-1) * (1 << SHIFT)).astype(np.int32)
        thickness = max(1, round(width / self.pixel))
        cv2.polylines(picture, [points], False, 255, thickness, cv2.LINE_AA, SHIFT)
        return smooth(picture.astype(np.float32) / 255.0, softness / self.pixel)


def smoothstep(value: np.ndarray, edge: np.ndarray | float, softness: float) -> np.ndarray:
    """0 below edge - softness, 1 above edge + softness, smooth between."""
    t = np.clip((value - edge) / (2.0 * softness) + 0.5, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def blob(canvas: Canvas, x: float, y: float, radius_x: float, radius_y: float, softness: float) -> np.ndarray:
    """Soft ellipse; softness as a part of the radius."""
    distance = ((canvas.x - x) / radius_x) ** 2 + ((canvas.y - y) / radius_y) ** 2
    return smoothstep(-np.sqrt(distance), -1.0, softness)


def smooth(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; sigma in pixels, 0 for none."""
    return picture if sigma <= 0.05 else cv2.GaussianBlur(picture, (0, 0), sigma)


def clouds(rng: np.random.Generator, size: int, coarse: int, octaves: int = 4) -> np.ndarray:
    """Fractal noise with mean 0 and standard deviation 1; `coarse` cells across the picture at its lowest octave."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = coarse * 2**octave + 2
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * 0.55**octave
    return (total - total.mean()) / total.std()
