"""Pictures that are no chest radiograph, seeded: pages, noise, plots, scenes, other parts of the body, other scanners.

Drawings, not models: they show what a data set may hold by mistake, well enough to try a check of pictures on.
"""

from collections.abc import Callable

import cv2
import numpy as np

from chexworld_ray.phantoms.canvas import Canvas, blob, clouds, smooth, smoothstep
from chexworld_ray.phantoms.dataset import make_phantom

Draw = Callable[[np.random.Generator, int], np.ndarray]


def make_other(name: str, seed: int, index: int, size: int) -> np.ndarray:
    """uint8 picture of a kind of `OTHERS`, size x size: a pure function of kind, seed and index."""
    rng = np.random.default_rng([seed, 3, list(OTHERS).index(name), index])
    values = OTHERS[name](rng, size)
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-6)
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    fine = rng.standard_normal((size, size)).astype(np.float32)
    return smooth(fine, rng.uniform(0, 4)) if rng.random() < 0.4 else clouds(rng, size, int(rng.integers(1, 20)))


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    canvas = Canvas(size, rng.uniform(0, 6.3))
    ramp = canvas.y if rng.random() < 0.5 else np.hypot(canvas.x - rng.uniform(-1, 1), canvas.y - rng.uniform(0, 1))
    return ramp + rng.uniform(0, 0.05) * rng.standard_normal((size, size))


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    canvas = Canvas(size, rng.uniform(0, 6.3))
    waves = np.sin(canvas.x * rng.uniform(3, 40) + rng.uniform(0, 6))
    if rng.random() < 0.5:
        waves = waves * np.sin(canvas.y * rng.uniform(3, 60))
    return np.sign(waves) if rng.random() < 0.5 else waves


def _page(rng: np.random.Generator, size: int) -> np.ndarray:
    page = np.full((size, size), 255, np.uint8)
    step, left = int(rng.integers(5, 14)), int(rng.integers(2, size // 5))
    for row in range(step + int(rng.integers(0, size // 5)), size - 3, step):
        if rng.random() < 0.12:
            continue
        words = "".join(rng.choice(list("abcdefghij klmnop qrstuv wxyz 0123")) for _ in range(int(rng.integers(8, 60))))
        cv2.putText(page, words, (left, row), cv2.FONT_HERSHEY_PLAIN, step / 16, 0, 1, cv2.LINE_AA)
    return 255.0 - page if rng.random() < 0.3 else page.astype(np.float32)


def _plot(rng: np.random.Generator, size: int) -> np.ndarray:
    picture = np.full((size, size), 255, np.uint8)
    for at in range(0, size, int(rng.integers(8, 20))):
        picture[at], picture[:, at] = 210, 210
    columns = np.arange(size)
    for middle in np.linspace(0.2, 0.8, int(rng.integers(1, 5))):
        beats = np.maximum(0, np.sin(columns * rng.uniform(0.1, 0.6))) ** 12
        rows = size * (middle - rng.uniform(0.05, 0.2) * beats) + rng.normal(0, 1, size)
        cv2.polylines(picture, [np.stack([columns, rows], 1).astype(np.int32)], False, 0, 1, cv2.LINE_AA)
    return 255.0 - picture if rng.random() < 0.4 else picture.astype(np.float32)


def _windows(rng: np.random.Generator, size: int) -> np.ndarray:
    picture = np.full((size, size), rng.uniform(0, 255), np.float32)
    for _ in range(int(rng.integers(3, 30))):
        low, high = rng.integers(0, size, 2), rng.integers(4, size // 2 + 5, 2)
        colour, width = rng.uniform(0, 255), int(rng.choice([-1, -1, 1]))
        cv2.rectangle(picture, low.tolist(), (low + high).tolist(), colour, width)
    return picture


def _scene(rng: np.random.Generator, size: int) -> np.ndarray:
    canvas = Canvas(size)
    picture = 0.9 - 0.3 * canvas.y + 0.08 * clouds(rng, size, 3)
    line = np.linspace(-1.2, 1.2, 40)
    for horizon in np.sort(rng.uniform(0.25, 0.9, int(rng.integers(1, 5)))):
        height = horizon + 0.1 * np.interp(canvas.x, line, smooth(rng.standard_normal((1, 40)), 2.0)[0])
        ground = rng.uniform(0, 1) + 0.1 * clouds(rng, size, int(rng.integers(4, 16)))
        picture = np.where(canvas.y > height, ground, picture)
    for _ in range(int(rng.integers(0, 8))):
        where, lum = (rng.uniform(-1, 1), rng.uniform(0.1, 0.9)), rng.uniform(0, 1)
        picture += (lum - picture) * blob(canvas, *where, rng.uniform(0.05, 0.4), rng.uniform(0.03, 0.2), 0.2)
    return picture


def _street(rng: np.random.Generator, size: int) -> np.ndarray:
    picture = _gradient(rng, size).astype(np.float32) * 0.2 + 0.5
    for _ in range(int(rng.integers(3, 9))):
        left, top = int(rng.integers(-10, size)), int(rng.integers(0, size // 2))
        wide, colour = int(rng.integers(size // 8, size // 3)), rng.uniform(0, 1)
        cv2.rectangle(picture, (left, top), (left + wide, size), colour, -1)
        for row in range(top + 4, size, 9):
            for column in range(left + 4, left + wide - 4, 8):
                cv2.rectangle(picture, (column, row), (column + 3, row + 4), (colour + 0.4) % 1.0, -1)
    return picture + 0.05 * clouds(rng, size, 8)


def _face(rng: np.random.Generator, size: int) -> np.ndarray:
    canvas = Canvas(size, rng.normal(0, 0.15), rng.uniform(0.7, 1.5), tuple(rng.normal(0, 0.15, 2)))
    picture = rng.uniform(0, 1) + 0.15 * clouds(rng, size, 4)
    for name, (x, y, wide, high) in {
        "shoulders": (0.0, 1.05, 0.85, 0.28),
        "hair": (0.0, 0.40, 0.50, 0.33),
        "head": (0.0, 0.46, 0.42, 0.30),
        "eye": (-0.16, 0.42, 0.08, 0.02),
        "other eye": (0.16, 0.42, 0.08, 0.02),
        "mouth": (0.0, 0.60, 0.16, 0.02),
    }.items():
        lum = rng.uniform(0.0, 0.3) if "e" in name[:2] or name == "mouth" else rng.uniform(0, 1)
        picture += (lum - picture) * blob(canvas, x, y, wide, high, 0.15)
    return picture


def _limb(rng: np.random.Generator, size: int) -> np.ndarray:
    """One or two long bones with their joint: knee, elbow, forearm, lower leg."""
    canvas = Canvas(size, rng.uniform(-0.5, 0.5), rng.uniform(0.7, 1.5), tuple(rng.normal(0, 0.15, 2)))
    wide = rng.uniform(0.3, 0.7)
    picture = rng.uniform(0.2, 0.5) * smoothstep(-np.abs(canvas.x), -wide * (1.0 + 0.2 * np.sin(3 * canvas.y)), 0.1)
    joint, gap = rng.uniform(0.3, 0.7), rng.uniform(0.0, 0.03)
    for centre in (0.0,) if rng.random() < 0.5 else (-0.4 * wide, 0.4 * wide):
        flare = 0.12 + 0.18 * np.exp(-(((canvas.y - joint) / 0.1) ** 2))
        shaft = smoothstep(-np.abs(canvas.x - centre), -flare * wide * 2, 0.04)
        core = smoothstep(-np.abs(canvas.x - centre), -flare * wide * 1.2, 0.05)
        picture += (0.4 * shaft - 0.15 * core) * (1 - smoothstep(-np.abs(canvas.y - joint), -gap, 0.01))
    return picture + 0.01 * rng.standard_normal((size, size))


def _hand(rng: np.random.Generator, size: int) -> np.ndarray:
    """Hand or foot: rays of short bones."""
    canvas = Canvas(size, rng.uniform(-0.6, 0.6), rng.uniform(0.7, 1.3), tuple(rng.normal(0, 0.1, 2)))
    picture = 0.3 * blob(canvas, 0.0, 0.65, 0.5, 0.25, 0.2)
    for number, angle in enumerate(np.linspace(-0.55, 0.55, 5) + rng.normal(0, 0.05, 5)):
        reach = 0.42 - 0.05 * abs(number - 2)
        for start, stop in ((0.02, 0.42), (0.46, 0.7), (0.73, 0.88), (0.9, 1.0)):
            s = np.array([start, stop]) * reach
            x, y = np.sin(angle) * (0.2 + 2 * s), 0.62 - np.cos(angle) * s
            picture = np.maximum(picture, 0.45 * canvas.stroke(x, y, 0.07, 0.02)) + 0.35 * canvas.stroke(x, y, 0.03, 0)
    for _ in range(7):
        picture += 0.3 * blob(canvas, rng.uniform(-0.3, 0.3), rng.uniform(0.62, 0.75), 0.1, 0.04, 0.2)
    return picture


def _skull(rng: np.random.Generator, size: int) -> np.ndarray:
    canvas = Canvas(size, rng.normal(0, 0.1), rng.uniform(0.8, 1.3), tuple(rng.normal(0, 0.08, 2)))
    outer = blob(canvas, 0.0, 0.42, 0.62, 0.36, 0.05)
    picture = 0.9 * outer - 0.35 * blob(canvas, 0.0, 0.42, 0.54, 0.31, 0.12)
    for x in (-0.22, 0.22) if rng.random() < 0.6 else (rng.uniform(-0.5, 0.5),):
        picture -= 0.25 * blob(canvas, x, 0.5, 0.16, 0.07, 0.4)
    picture += 0.35 * blob(canvas, 0.0, 0.78, 0.35, 0.12, 0.3) + 0.3 * blob(canvas, 0.0, 0.95, 0.25, 0.2, 0.3)
    return picture + 0.04 * clouds(rng, size, 8) * outer


def _belly(rng: np.random.Generator, size: int) -> np.ndarray:
    """Abdomen or pelvis: a lumbar spine, wings of the pelvis, gas."""
    canvas = Canvas(size, rng.normal(0, 0.05), rng.uniform(0.8, 1.4), tuple(rng.normal(0, 0.1, 2)))
    body = smoothstep(-np.abs(canvas.x), -rng.uniform(0.75, 1.1), 0.1)
    picture = rng.uniform(0.4, 0.6) * body + 0.05 * clouds(rng, size, 4)
    spine = smoothstep(-np.abs(canvas.x), -0.13, 0.03) * smoothstep(-canvas.y, -0.75, 0.05)
    picture += 0.25 * spine * (0.7 + 0.3 * np.cos(canvas.y * rng.uniform(45, 70)))
    for side in (-1, 1):
        wing = blob(canvas, side * 0.48, rng.uniform(0.6, 0.72), 0.34, 0.2, 0.1)
        picture += 0.3 * (wing - 0.6 * blob(canvas, side * 0.44, 0.62, 0.26, 0.15, 0.2))
        picture += 0.35 * blob(canvas, side * 0.5, 0.92, 0.14, 0.12, 0.15)
    for _ in range(int(rng.integers(3, 16))):
        radius, where = rng.uniform(0.04, 0.15), (rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.75))
        picture -= rng.uniform(0.05, 0.25) * blob(canvas, *where, radius, radius / 2, 0.3)
    return picture + 0.02 * rng.standard_normal((size, size))


def _spine(rng: np.random.Generator, size: int) -> np.ndarray:
    canvas = Canvas(size, rng.normal(0, 0.3), rng.uniform(0.7, 1.2))
    bend = rng.uniform(-0.3, 0.3) * np.sin(canvas.y * rng.uniform(2, 5))
    column = smoothstep(-np.abs(canvas.x - bend), -rng.uniform(0.12, 0.35), 0.03)
    body = 0.35 * smoothstep(-np.abs(canvas.x), -rng.uniform(0.6, 1.2), 0.2)
    pitch = rng.uniform(20, 50)
    return body + column * (0.3 + 0.2 * np.sign(np.cos(canvas.y * pitch) + 0.6)) + 0.03 * clouds(rng, size, 8)


def _slice(rng: np.random.Generator, size: int) -> np.ndarray:
    """An axial slice of a CT or MRI scan, of the chest (with lungs) or not."""
    canvas = Canvas(size, rng.normal(0, 0.1), rng.uniform(0.8, 1.2), tuple(rng.normal(0, 0.05, 2)))
    body = blob(canvas, 0, 0.5, rng.uniform(0.7, 0.9), rng.uniform(0.28, 0.42), 0.05)
    picture = 0.5 * body + 0.05 * body * clouds(rng, size, 8)
    if rng.random() < 0.5:
        for side in (-1, 1):
            picture -= rng.uniform(0.3, 0.5) * blob(canvas, side * 0.38, 0.48, 0.26, rng.uniform(0.15, 0.25), 0.1)
    else:
        for _ in range(6):
            where, wide = (rng.uniform(-0.5, 0.5), rng.uniform(0.3, 0.7)), rng.uniform(0.08, 0.3)
            picture += rng.uniform(-0.2, 0.2) * blob(canvas, *where, wide, wide / 2, 0.1)
    picture += 0.4 * blob(canvas, 0, 0.7, 0.12, 0.06, 0.15)
    return picture + 0.02 * rng.standard_normal((size, size))


def _fan(rng: np.random.Generator, size: int) -> np.ndarray:
    """Ultrasound: speckle in a sector."""
    canvas = Canvas(size, rng.normal(0, 0.05), rng.uniform(0.8, 1.2))
    angle, radius = np.arctan2(canvas.x / 2, canvas.y + 0.02), np.hypot(canvas.x / 2, canvas.y + 0.02)
    sector = smoothstep(-np.abs(angle), -rng.uniform(0.4, 0.8), 0.02) * smoothstep(-radius, -0.95, 0.01)
    speckle = np.abs(smooth(rng.standard_normal((size, size)).astype(np.float32), 0.8))
    picture = sector * (0.3 + 0.3 * clouds(rng, size, 4)) * (0.3 + 2.0 * speckle)
    hollow = blob(canvas, rng.uniform(-0.3, 0.3), rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.3), 0.1, 0.2)
    return np.clip(picture * (1 - 0.8 * hollow), 0, None)


def _breast(rng: np.random.Generator, size: int) -> np.ndarray:
    canvas = Canvas(size, rng.normal(0, 0.1), rng.uniform(0.8, 1.2), (0.0, rng.normal(0, 0.1)))
    half = blob(canvas, rng.choice([-1.0, 1.0]), rng.uniform(0.4, 0.6), rng.uniform(0.8, 1.3), 0.42, 0.06)
    glands = np.clip(clouds(rng, size, 6), 0, None)
    return half * (0.4 + 0.25 * smooth(glands.astype(np.float32), 1.5))


def _piece(rng: np.random.Generator, size: int) -> np.ndarray:
    """A small part of a phantom chest, enlarged; or its tiles in disorder."""
    whole = make_phantom(int(rng.integers(1 << 30)), 0, max(size, 96)).image_HW
    return scrambled(whole, rng, size)


def scrambled(whole_HW: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A radiograph that shows no chest any more: a piece of less than a third of its side, or tiles in disorder."""
    square = cv2.resize(whole_HW, (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        side = round(size * rng.uniform(0.16, 0.33))
        top, left = rng.integers(0, size - side + 1, 2)
        piece = np.ascontiguousarray(square[top : top + side, left : left + side])
        return cv2.resize(piece, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    parts = int(rng.integers(3, 7))
    edge = size // parts
    tiles = [square[r * edge : (r + 1) * edge, c * edge : (c + 1) * edge] for r in range(parts) for c in range(parts)]
    order = [np.rot90(tiles[at], int(rng.integers(4))) for at in rng.permutation(len(tiles))]
    rows = [np.hstack(order[at * parts : (at + 1) * parts]) for at in range(parts)]
    return np.vstack(rows).astype(np.float32)


OTHERS: dict[str, Draw] = {
    "noise": _noise,
    "gradient": _gradient,
    "stripes": _stripes,
    "page": _page,
    "plot": _plot,
    "windows": _windows,
    "scene": _scene,
    "street": _street,
    "face": _face,
    "limb": _limb,
    "hand": _hand,
    "skull": _skull,
    "abdomen": _belly,
    "spine": _spine,
    "slice": _slice,
    "ultrasound": _fan,
    "breast": _breast,
    "piece": _piece,
}
"""What is drawn, by its name."""
