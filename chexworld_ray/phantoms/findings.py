"""Findings: what each adds to the picture, and where. Several may stand in one image."""

from dataclasses import dataclass, field

import numpy as np

from chexworld_ray.phantoms.anatomy import SIDES, Anatomy
from chexworld_ray.phantoms.canvas import Canvas, blob, clouds, smooth, smoothstep

FINDINGS = ("opacity", "effusion", "nodule", "cardiomegaly", "pneumothorax")
PREVALENCE = {"opacity": 0.3, "effusion": 0.25, "nodule": 0.25, "cardiomegaly": 0.25, "pneumothorax": 0.2}


@dataclass
class FindingLayers:
    """Density to add, the part of each lung that is collapsed (no vessels), the heart's enlargement, and boxes."""

    density: np.ndarray
    collapsed: np.ndarray
    heart_enlargement: float = 1.0
    areas: list[tuple[str, np.ndarray]] = field(default_factory=list)
    """(finding, soft mask) of what a box can be drawn around."""


def sample_findings(rng: np.random.Generator) -> dict[str, bool]:
    """Which findings a patient has, independently."""
    return {name: bool(rng.random() < PREVALENCE[name]) for name in FINDINGS}


def draw_findings(
    present: dict[str, bool],
    anatomy: Anatomy,
    canvas: Canvas,
    lungs: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> FindingLayers:
    """Layers of the findings that are present; each draws its own place and size."""
    blank = np.zeros((canvas.size, canvas.size), np.float32)
    layers = FindingLayers(blank.copy(), blank.copy())
    if present["cardiomegaly"]:
        layers.heart_enlargement = float(rng.uniform(1.32, 1.65))
    if present["opacity"]:
        _opacity(layers, anatomy, canvas, lungs, rng)
    if present["effusion"]:
        _effusion(layers, anatomy, canvas, lungs, rng)
    if present["nodule"]:
        _nodule(layers, anatomy, canvas, lungs, rng)
    if present["pneumothorax"]:
        _pneumothorax(layers, anatomy, canvas, lungs, rng)
    return layers


def _side(rng: np.random.Generator) -> str:
    return str(rng.choice(list(SIDES)))


def _place(anatomy: Anatomy, side: str, rng: np.random.Generator, low: float, high: float) -> tuple[float, float]:
    """A point inside a lung, `low` to `high` of the way from apex to base."""
    y = anatomy.apex + rng.uniform(low, high) * (anatomy.base - anatomy.apex)
    medial, lateral = anatomy.lung_profile(np.array([y]))
    x = float(medial[0] + rng.uniform(0.25, 0.8) * (lateral[0] - medial[0]))
    return SIDES[side] * x, float(y)


def _opacity(
    layers: FindingLayers,
    anatomy: Anatomy,
    canvas: Canvas,
    lungs: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> None:
    side = _side(rng)
    x, y = _place(anatomy, side, rng, 0.35, 0.8)
    patch = blob(canvas, x, y, rng.uniform(0.2, 0.34), rng.uniform(0.09, 0.17), 0.75)
    texture = np.clip(0.75 + 0.3 * clouds(rng, canvas.size, 10), 0.1, 1.3)
    cloud = smooth(patch * texture, 1.2) * lungs[side]
    layers.density += rng.uniform(0.24, 0.42) * cloud
    layers.areas.append(("opacity", patch * lungs[side]))


def _effusion(
    layers: FindingLayers,
    anatomy: Anatomy,
    canvas: Canvas,
    lungs: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> None:
    side = _side(rng)
    x = canvas.x * SIDES[side]
    level = anatomy.base - rng.uniform(0.1, 0.28)
    meniscus = level + 0.09 * np.clip((anatomy.half_width - x) / anatomy.half_width, 0, 1) ** 0.6
    fluid = smoothstep(canvas.y, meniscus, 0.02) * lungs[side]
    layers.density += rng.uniform(0.34, 0.44) * fluid
    layers.collapsed = np.maximum(layers.collapsed, fluid)
    layers.areas.append(("effusion", fluid))


def _nodule(
    layers: FindingLayers,
    anatomy: Anatomy,
    canvas: Canvas,
    lungs: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> None:
    side = _side(rng)
    x, y = _place(anatomy, side, rng, 0.15, 0.7)
    radius = rng.uniform(0.028, 0.055)
    ball = blob(canvas, x, y, 2.0 * radius, radius, 0.22)
    layers.density += rng.uniform(0.3, 0.45) * ball
    layers.areas.append(("nodule", ball))


def _pneumothorax(
    layers: FindingLayers,
    anatomy: Anatomy,
    canvas: Canvas,
    lungs: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> None:
    side = _side(rng)
    depth = rng.uniform(0.15, 0.34)
    _, lateral = anatomy.lung_profile(canvas.y)
    t = np.clip((canvas.y - anatomy.apex) / (anatomy.base - anatomy.apex), 0, 1)
    pleura = lateral - depth * (1.0 - 0.75 * t)
    air = smoothstep(canvas.x * SIDES[side], pleura, 2.0 * canvas.pixel) * lungs[side]
    top = smoothstep(-canvas.y, -(anatomy.apex + 0.28 * depth), 0.004) * lungs[side]
    air = np.maximum(air, top)
    edge = np.abs(smooth(air, 1.0) - 0.5) < 0.25
    line = smooth((edge & (lungs[side] > 0.9)).astype(np.float32), 0.8)
    layers.density += 0.18 * line - 0.14 * air
    layers.collapsed = np.maximum(layers.collapsed, air)
    layers.areas.append(("pneumothorax", air))
