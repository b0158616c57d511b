"""Plausible lateral chest radiographs, seeded: what a frontal data set should not hold, to try a check of pictures on.

Coordinates as in `anatomy`: x from -1 to 1, here from the back to the front, y from the top (0) to the bottom (1).
"""

import numpy as np

from chexworld_ray.phantoms.anatomy import SIDES
from chexworld_ray.phantoms.canvas import Canvas, blob, clouds, smooth, smoothstep
from chexworld_ray.phantoms.render import HOSPITALS, film


def make_lateral(seed: int, index: int, size: int) -> np.ndarray:
    """uint8 picture number `index` of a seed, size x size: a pure function. Half of the patients face to the left."""
    rng = np.random.default_rng([seed, 2, index])
    pose = rng.normal(0.0, (0.06, 0.06, 0.05, 0.03))
    canvas = Canvas(size, float(pose[0]), 1.0 + float(pose[1]), (float(pose[2]), float(pose[3])))
    hospital = HOSPITALS[int(rng.integers(len(HOSPITALS)))]
    density = _compose(canvas, rng)
    if rng.random() < 0.5:
        density = density[:, ::-1]
    return film(np.ascontiguousarray(density), hospital, canvas, rng)


def _compose(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Density of a patient seen from the side."""
    x, y = canvas.x, canvas.y
    depth = rng.uniform(0.45, 0.80)  # half of the lungs' reach from back to front
    base, apex = rng.uniform(0.55, 0.84), rng.uniform(0.02, 0.18)
    t = np.clip((y - apex) / (base - apex), 0.0, 1.2)
    dome = np.sqrt(np.clip(1.0 - (1.0 - np.clip(t / rng.uniform(0.25, 0.7), 0, 1)) ** 2, 0, 1))
    lean = rng.uniform(-0.15, 0.25) * depth
    top, bend = lean * (1 - t), rng.uniform(0.0, 0.12) * np.sin(np.pi * t)
    back, front = top - depth * dome - bend, top + depth * (0.6 + 0.4 * np.clip(t, 0, 1)) * dome
    skin = rng.uniform(0.08, 0.35)
    wall = depth * rng.uniform(0.25, 1.2) * (1 - dome)  # narrow neck to raised arms
    body = smoothstep(x, back - skin - wall, 0.06) * smoothstep(-x, -(front + skin + wall), 0.06)
    lung = smoothstep(x, back, 0.06) * smoothstep(-x, -front, 0.05) * smoothstep(y, apex, 0.03)
    domes = [_diaphragm(x, depth, base + rng.uniform(-0.02, 0.02), rng) for _ in SIDES]
    lung = lung * np.mean([smoothstep(-y, -one, 0.015) for one in domes], axis=0)
    density = rng.uniform(0.55, 0.78) * body - rng.uniform(0.14, 0.42) * lung
    density += _middle(canvas, rng, depth, apex, base, lung)
    density += _bones(canvas, rng, back, front, apex, base) * np.clip(body / 0.5, 0, 1)
    arms = smoothstep(-y, -rng.uniform(0.10, 0.30), 0.10) * smoothstep(-np.abs(x - rng.uniform(-0.2, 0.3)), -0.5, 0.25)
    density += rng.uniform(0.05, 0.55) * arms * body
    density += rng.uniform(0.05, 0.20) * smoothstep(y, base, 0.10) * body + 0.015 * clouds(rng, canvas.size, 5) * body
    return density.astype(np.float32)


def _diaphragm(x: np.ndarray, depth: float, base: float, rng: np.random.Generator) -> np.ndarray:
    """y of one hemidiaphragm: it falls from a dome in front to the deep recess at the back."""
    along = np.clip((x + depth) / (2 * depth), 0, 1)
    peak = rng.uniform(0.45, 0.85)
    fall = rng.uniform(0.08, 0.40) * (np.clip(peak - along, 0, 1) / peak) ** rng.uniform(1.2, 2.2)
    return base + fall + rng.uniform(0.2, 1.5) * np.clip(along - peak, 0, 1) ** 1.5


def _middle(
    canvas: Canvas, rng: np.random.Generator, depth: float, apex: float, base: float, lung: np.ndarray
) -> np.ndarray:
    """Heart, great vessels and hila, less the trachea and the stomach's air."""
    heart_y, length = base - rng.uniform(0.06, 0.15), rng.uniform(0.11, 0.20)
    heart = blob(canvas, rng.uniform(0.15, 0.45) * depth, heart_y, rng.uniform(0.40, 0.65) * depth, length, 0.6)
    arch = blob(canvas, rng.uniform(-0.2, 0.1) * depth, apex + 0.2, 0.35 * depth, 0.10, 0.8)
    hila = blob(canvas, rng.uniform(-0.1, 0.1) * depth, apex + 0.34, 0.18, 0.07, 0.7)
    middle = rng.uniform(0.2, 0.36) * heart + rng.uniform(0.06, 0.16) * arch + rng.uniform(0.08, 0.2) * hila
    s = np.linspace(0, 1, 12)
    windpipe = canvas.stroke(0.05 * depth - 0.12 * s, apex - 0.06 + 0.36 * s, 0.022, 0.006)
    texture = smooth(np.clip(clouds(rng, canvas.size, 14), 0, 2), 0.6) * rng.uniform(0.0, 0.05)
    air = blob(canvas, rng.uniform(0.0, 0.5) * depth, base + 0.07, 0.22, 0.04, 0.4) * (1 - lung)
    return (middle + texture) * np.clip(lung + 0.15, 0, 1) - 0.10 * windpipe - rng.uniform(0.0, 0.16) * air


def _bones(
    canvas: Canvas, rng: np.random.Generator, back: np.ndarray, front: np.ndarray, apex: float, base: float
) -> np.ndarray:
    """Spine along the back, breastbone at the front, and ribs that fall from one to the other."""
    x, y = canvas.x, canvas.y
    pitch, thick = rng.uniform(0.055, 0.075), rng.uniform(0.07, 0.12)
    column = smoothstep(-np.abs(x - back - rng.uniform(0.10, 0.2)), -thick, 0.03)
    total = column * (0.06 + 0.07 * (0.5 + 0.5 * np.cos(2 * np.pi * y / pitch))) * rng.uniform(0.7, 1.4)
    breastbone = smoothstep(-np.abs(x - front + 0.02), -0.025, 0.02)
    reach = smoothstep(y, apex + 0.06, 0.05) * smoothstep(-y, -(base - 0.1), 0.05)
    total = total + rng.uniform(0.04, 0.16) * breastbone * reach
    s = np.linspace(0, 1, 20)
    fall, strength = rng.uniform(0.12, 0.3), rng.uniform(0.0, 0.06)
    ends = float(np.median(back)) + 0.05, float(np.median(front))
    for number in range(10):
        start = apex + number * rng.uniform(0.068, 0.082)
        for shift in (0.0, rng.uniform(0.01, 0.03)):
            y_rib = start + shift + fall * s + 0.03 * np.sin(np.pi * s)
            total += strength * canvas.stroke(ends[0] + s * (ends[1] - ends[0]), y_rib, 0.018, 0.004)
    return total
