"""From anatomy, findings and a hospital's machine to a picture: densities add up, then the film curve.

Units are those of optical density as displayed: 0 is black (air outside), about 1 is bone over soft tissue.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from chexworld_ray.phantoms.anatomy import SIDES, Anatomy
from chexworld_ray.phantoms.canvas import Canvas, blob, clouds, smooth, smoothstep
from chexworld_ray.phantoms.findings import FindingLayers


@dataclass(frozen=True)
class Hospital:
    """How one hospital's pictures look."""

    name: str
    gamma: float
    contrast: float
    brightness: float
    blur: float
    noise: float
    collimation: float
    marker: str
    projection: str


HOSPITALS = (
    Hospital("northfield", 1.0, 1.0, 0.0, 0.5, 0.012, 0.00, "L", "PA"),
    Hospital("lakeside", 1.35, 1.15, 0.04, 0.9, 0.030, 0.03, "R", "AP"),
    Hospital("old_town", 0.8, 0.85, -0.02, 1.3, 0.020, 0.05, "L AP", "AP"),
)


def tissue(anatomy: Anatomy, canvas: Canvas) -> np.ndarray:
    """Soft tissue of trunk, neck and shoulders."""
    x, y = np.abs(canvas.x), canvas.y
    trunk = np.clip(1.0 - (x / (anatomy.body_half_width + 0.1 * y)) ** 4, 0, None) ** 0.5
    shoulders = smoothstep(-x, -(0.32 + 4.2 * np.clip(y - 0.02, 0, None)), 0.12)
    body = trunk * np.maximum(shoulders, smoothstep(-x, -0.30, 0.06))
    layer = (0.52 + 0.12 * anatomy.fat) * body
    side_fat = smoothstep(x, anatomy.half_width + 0.02, 0.05) * body
    return layer + (0.05 + 0.08 * anatomy.fat) * side_fat + 0.10 * smoothstep(y, anatomy.base, 0.06) * body


def bones(anatomy: Anatomy, canvas: Canvas) -> np.ndarray:
    """Spine, ribs and clavicles."""
    total = np.zeros((canvas.size, canvas.size), np.float32)
    spine = smoothstep(-np.abs(canvas.x), -0.075, 0.02)
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * canvas.y / (0.72 * anatomy.rib_pitch))
    total += spine * (0.09 + 0.04 * discs)
    for sign in SIDES.values():
        for number in range(10):
            _posterior_rib(total, anatomy, canvas, sign, number)
        for number in range(1, 7):
            _anterior_rib(total, anatomy, canvas, sign, number)
        s = np.linspace(0, 1, 24)
        x = sign * (0.09 + s * (anatomy.half_width * 0.98))
        y = anatomy.clavicle_y + 0.03 - anatomy.clavicle_slope * s + 0.018 * np.sin(2 * np.pi * s)
        total += 0.20 * canvas.stroke(x, y, 0.024, 0.003) + 0.06 * canvas.stroke(x, y, 0.006, 0.002)
    return total


def _posterior_rib(total: np.ndarray, anatomy: Anatomy, canvas: Canvas, sign: float, number: int) -> None:
    start = anatomy.apex + 0.005 + number * anatomy.rib_pitch
    s = np.linspace(0, 1, 32)
    _, lateral = anatomy.lung_profile(np.array([min(start + 0.06, anatomy.base)]))
    x = sign * (0.07 + s * (float(lateral[0]) + 0.03 - 0.07))
    y = start - 0.035 * np.sin(np.pi * np.clip(s * 1.3, 0, 1)) + anatomy.rib_drop * s**2.6
    width = 0.024
    total += 0.075 * canvas.stroke(x, y, width, 0.003)
    total += 0.045 * canvas.stroke(x, y + 0.45 * width, 0.004, 0.0015)


def _anterior_rib(total: np.ndarray, anatomy: Anatomy, canvas: Canvas, sign: float, number: int) -> None:
    start = anatomy.apex + 0.10 + number * anatomy.rib_pitch * 1.12
    s = np.linspace(0, 1, 24)
    _, lateral = anatomy.lung_profile(np.array([min(start, anatomy.base)]))
    x = sign * (float(lateral[0]) + 0.01 - s * 0.62 * float(lateral[0]))
    y = start + 0.11 * s**1.3
    total += 0.045 * canvas.stroke(x, y, 0.027, 0.005)


def vessels(anatomy: Anatomy, canvas: Canvas) -> np.ndarray:
    """Branching hilar vessels, thinner towards the periphery."""
    rng = np.random.default_rng(anatomy.vessel_seed)
    picture = np.zeros((canvas.size, canvas.size), np.float32)
    for side, sign in SIDES.items():
        origin = (sign * 0.9 * anatomy.mediastinum, anatomy.hilum_y(side))
        for angle in np.linspace(-1.25, 1.35, 11):
            _branch(picture, canvas, rng, sign, origin, float(angle + rng.normal(0, 0.1)), 0.022, 0.13)
        picture += 0.7 * blob(canvas, sign * 1.2 * anatomy.mediastinum, origin[1], 0.085, 0.06, 0.6)
    return smooth(np.clip(picture, 0, 2.0), 0.0035 / canvas.pixel)


def _branch(
    picture: np.ndarray,
    canvas: Canvas,
    rng: np.random.Generator,
    sign: float,
    start: tuple[float, float],
    angle: float,
    width: float,
    length: float,
) -> None:
    if width < 0.0035:
        return
    end = (start[0] + sign * 2.0 * length * np.cos(angle), start[1] + length * np.sin(angle))
    (column0, column1), (row0, row1) = canvas.to_pixels(np.array([start[0], end[0]]), np.array([start[1], end[1]]))
    stroke = np.zeros((canvas.size, canvas.size), np.uint8)
    points = [(round(float(c) * 16), round(float(r) * 16)) for c, r in ((column0, row0), (column1, row1))]
    cv2.line(stroke, points[0], points[1], 255, max(1, round(width / canvas.pixel)), cv2.LINE_AA, 4)
    picture += stroke.astype(np.float32) * (min(1.0, 0.35 + width * 28) / 255.0)
    for turn in (-0.42, 0.38):
        _branch(picture, canvas, rng, sign, end, angle + turn + rng.normal(0, 0.15), width * 0.62, length * 0.72)


def compose(
    anatomy: Anatomy,
    canvas: Canvas,
    layers: FindingLayers,
    lungs: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Density of the whole patient."""
    lung = np.clip(sum(lungs.values()), 0, 1)
    body = tissue(anatomy, canvas)
    air = 0.40 * lung * (1.0 + 0.06 * clouds(rng, canvas.size, 6))
    heart = anatomy.heart(canvas, layers.heart_enlargement)
    knob = anatomy.landmarks()["aortic_knob"]
    middle = smoothstep(-np.abs(canvas.x), -anatomy.mediastinum, 0.035) * (0.5 + 0.5 * smoothstep(canvas.y, 0.1, 0.2))
    middle = np.maximum(middle, 0.9 * blob(canvas, knob[0] - 0.03, knob[1], 0.085, 0.045, 0.3))
    trachea = smoothstep(-np.abs(canvas.x), -0.045, 0.02) * smoothstep(
        -canvas.y, -anatomy.landmarks()["carina"][1], 0.02
    )
    bubble = blob(canvas, 0.38, anatomy.base + 0.02, 0.16, 0.035, 0.4) * (1 - lung)
    density = body - air + 0.10 * lung * smoothstep(canvas.y, anatomy.base - 0.18, 0.2)
    density += 0.37 * np.maximum(heart, 0.8 * middle) * np.clip(lung + 0.2, 0, 1) * body / 0.55
    density += 0.13 * vessels(anatomy, canvas) * lung * (1.0 - layers.collapsed) * (1.0 - 0.75 * heart)
    hidden = 1.0 - 0.6 * smoothstep(canvas.y, anatomy.base - 0.02, 0.05)  # ribs fade over the abdomen
    density += bones(anatomy, canvas) * hidden * np.clip(body / 0.5, 0, 1) - 0.07 * trachea - 0.10 * bubble
    return density + layers.density + 0.012 * clouds(rng, canvas.size, 4) * body


def film(density: np.ndarray, hospital: Hospital, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """uint8 picture: blur, noise, the hospital's curve, collimation and side marker."""
    values = smooth(density.astype(np.float32), hospital.blur * canvas.size / 320)
    values = 0.9 * values + 0.1 * smooth(values, canvas.size / 12)  # scatter
    values = values + hospital.noise * rng.standard_normal(values.shape).astype(np.float32) * np.sqrt(
        np.clip(1.1 - values, 0.2, 1)
    )
    values = np.clip((values - 0.02) / 0.92, 0, 1) ** (hospital.gamma * float(np.exp(rng.normal(0, 0.08))))
    values = np.clip(0.5 + (values - 0.5) * hospital.contrast * rng.uniform(0.92, 1.08) + hospital.brightness, 0, 1)
    margin = round(hospital.collimation * canvas.size * rng.uniform(0.6, 1.4))
    if margin:
        values[:margin], values[-margin:], values[:, :margin], values[:, -margin:] = 0.02, 0.02, 0.02, 0.02
    picture = np.rint(255 * values).astype(np.uint8)
    where = (round(0.90 * canvas.size) - 6 * len(hospital.marker), round(0.11 * canvas.size))
    cv2.putText(picture, hospital.marker, where, cv2.FONT_HERSHEY_SIMPLEX, canvas.size / 640, 235, 1, cv2.LINE_AA)
    return picture
