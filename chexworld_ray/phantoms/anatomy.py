"""One patient's anatomy: a few dozen numbers, and the organ shapes that follow from them.

Coordinates: x runs from the patient's right (-1, left edge of the picture) to the left (+1), y from the top (0)
to the bottom (1) of the field of view. "Right" and "left" are the patient's.
"""

from dataclasses import dataclass

import numpy as np

from chexworld_ray.phantoms.canvas import Canvas, blob, smoothstep

SIDES = {"right": -1.0, "left": 1.0}


@dataclass(frozen=True)
class Anatomy:
    """Shape parameters in field-of-view units; drawn around those of an adult on a PA film."""

    apex: float
    """y of the lung apices."""
    base: float
    """y of the lower lung border at the chest wall."""
    half_width: float
    """x of the inner chest wall at its widest."""
    dome: dict[str, float]
    """Height of each hemidiaphragm's dome."""
    dome_shift: dict[str, float]
    """How much higher (negative) or lower a hemidiaphragm stands; the right one is higher."""
    mediastinum: float
    """Half-width of the mediastinum."""
    heart_half_width: float
    heart_y: float
    heart_tilt: float
    clavicle_y: float
    clavicle_slope: float
    rib_pitch: float
    rib_drop: float
    body_half_width: float
    fat: float
    """Thickness of soft tissue, 0 (thin) to 1."""
    vessel_seed: int

    def lung_profile(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """|x| of the medial and the lateral lung border at height y (0-1, arrays)."""
        t = np.clip((y - self.apex) / (self.base - self.apex), 0.0, 1.0)
        lateral = self.half_width * np.sqrt(1.0 - (1.0 - t) ** 2.3)
        lateral = lateral * (1.0 - 0.08 * np.clip(t - 0.75, 0, 1) / 0.25)
        medial = self.mediastinum * (0.75 + 0.45 * t**2)
        opening = 0.40 * self.half_width
        round_off = np.sqrt(1.0 - (1.0 - np.clip(t / 0.16, 0, 1)) ** 2)
        medial = opening - (opening - medial) * round_off
        lateral = opening + (lateral - opening) * np.where(t < 0.16, round_off, 1.0)
        return medial, lateral

    def diaphragm(self, side: str, x: np.ndarray) -> np.ndarray:
        """y of the hemidiaphragm at |x|: a dome that falls off steeply towards the chest wall."""
        centre, reach = 0.48 * self.half_width, 0.62 * self.half_width
        arch = 1.0 - np.clip(np.abs(x - centre) / reach, 0.0, 1.0) ** 2.4
        return self.base + self.dome_shift[side] - self.dome[side] * arch

    def lung(self, side: str, canvas: Canvas) -> np.ndarray:
        """Soft lung mask in [0, 1], the part behind the heart included."""
        x, y = canvas.x * SIDES[side], canvas.y
        medial, lateral = self.lung_profile(y)
        soft = canvas.pixel * 2.0
        inside = smoothstep(x, medial, soft) * smoothstep(-x, -lateral, soft)
        return inside * smoothstep(-y, -self.diaphragm(side, x), soft) * smoothstep(y, self.apex, soft)

    def heart(self, canvas: Canvas, enlargement: float = 1.0) -> np.ndarray:
        """Soft heart mask: a tilted ovoid left of the midline, flat on the diaphragm."""
        half_width = self.heart_half_width * enlargement
        centre = 0.10 + 0.32 * (half_width - 0.30)
        cos, sin = np.cos(self.heart_tilt), np.sin(self.heart_tilt)
        x, y = canvas.x - centre, (canvas.y - self.heart_y) * 2.0
        across, along = (cos * x + sin * y) / half_width, (-sin * x + cos * y) / (0.86 * half_width + 0.10)
        oval = smoothstep(-(across**2 + along**2), -1.0, 0.10)
        atrium = blob(canvas, -0.08 - 0.25 * half_width, self.heart_y - 0.02, 0.62 * half_width, 0.115, 0.22)
        floor = smoothstep(-canvas.y, -(self.base + 0.04), canvas.pixel * 4)
        return np.maximum(oval, atrium) * floor

    def landmarks(self) -> dict[str, tuple[float, float]]:
        """Named points (x, y)."""
        points: dict[str, tuple[float, float]] = {}
        for side, sign in SIDES.items():
            corner = np.array([0.93 * self.half_width])
            points[f"apex_{side}"] = (sign * 0.40 * self.half_width, self.apex)
            points[f"costophrenic_{side}"] = (sign * float(corner[0]), float(self.diaphragm(side, corner)[0]))
            points[f"dome_{side}"] = (
                sign * 0.48 * self.half_width,
                self.base + self.dome_shift[side] - self.dome[side],
            )
            points[f"hilum_{side}"] = (sign * 1.25 * self.mediastinum, self.hilum_y(side))
        points["carina"] = (0.0, self.apex + 0.38 * (self.base - self.apex))
        points["aortic_knob"] = (0.95 * self.mediastinum, self.apex + 0.27 * (self.base - self.apex))
        return points

    def hilum_y(self, side: str) -> float:
        """y of a hilum; the left one is a little higher."""
        return self.apex + (0.45 if side == "right" else 0.42) * (self.base - self.apex)


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """A patient."""
    around = rng.normal
    base = float(np.clip(around(0.80, 0.025), 0.73, 0.86))
    return Anatomy(
        apex=float(np.clip(around(0.115, 0.02), 0.07, 0.17)),
        base=base,
        half_width=float(np.clip(around(0.76, 0.05), 0.62, 0.86)),
        dome={"right": abs(around(0.115, 0.015)), "left": abs(around(0.105, 0.015))},
        dome_shift={"right": around(-0.012, 0.006), "left": around(0.012, 0.006)},
        mediastinum=float(np.clip(around(0.155, 0.015), 0.12, 0.2)),
        heart_half_width=float(np.clip(around(0.315, 0.022), 0.26, 0.36)),
        heart_y=base - 0.135 + around(0, 0.01),
        heart_tilt=around(0.55, 0.08),
        clavicle_y=around(0.155, 0.015),
        clavicle_slope=around(0.05, 0.025),
        rib_pitch=around(0.078, 0.004),
        rib_drop=around(0.13, 0.02),
        body_half_width=float(np.clip(around(0.97, 0.06), 0.86, 1.15)),
        fat=float(rng.uniform(0, 1)),
        vessel_seed=int(rng.integers(2**31)),
    )
