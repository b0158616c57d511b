"""What the check of pictures is trained and tried on: chests from front and side, other pictures, what goes wrong.

Frontal radiographs are those of data sets, by their own splits, and phantoms. Lateral ones are phantoms alone. What is
no chest is drawn, or a radiograph in pieces.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.phantoms.lateral import make_lateral
from chexworld_ray.phantoms.others import OTHERS, make_other, scrambled
from chexworld_ray.shards.clean import content_box
from chexworld_ray.shards.decode import decode_grey_jpeg
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.picture import KINDS, SIDE
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.shards.settings import CleanSettings

BASE = 64  # side of pictures before they are varied for training
SIZE = 128  # side of what is drawn
DRAWN = "phantoms"  # the source of what is made here
SEEDS = {"train": 0, "val": 1, "test": 2}
WORDS = ("R", "L", "AP", "PORTABLE", "x")
KIND_SHARES = {"frontal": 0.55, "lateral": 0.2, "other": 0.25}
UNSEEN = ("hand", "street", "breast", "plot")
"""Kinds of other pictures that training never shows."""


@dataclass(frozen=True)
class Material:
    """Pictures of one source and kind (of picture.KINDS): uint8, right side up, as shards hold them."""

    source: str
    kind: str
    pictures: list[np.ndarray]


@dataclass(frozen=True)
class Sample:
    """A picture as an ingest may meet it, and what is wrong with it."""

    picture_HW: np.ndarray
    kind: str = "frontal"
    quarters: int = 0
    """Quarter turns, clockwise."""
    negative: bool = False
    mirrored: bool = False


def radiographs(data: list[Manifest], split: str, most: int) -> list[Material]:
    """Frontal radiographs of a split by source, at most so many of each."""
    found: dict[str, list[np.ndarray]] = {}
    for manifest in data:
        for file in manifest.select((split,), ("frontal",)):
            for group in range(len(file.row_groups)):
                table = read_row_group((manifest.root / file.path).url, group, ("dataset", "image"))
                for row in table.to_pylist():
                    pictures = found.setdefault(row["dataset"], [])
                    if len(pictures) < most:
                        pictures.append(decode_grey_jpeg(row["image"]))
    return [Material(source, "frontal", pictures) for source, pictures in sorted(found.items())]


def drawn(split: str, count: int) -> list[Material]:
    """`count` frontal and lateral phantoms each, and as many other pictures."""
    seed = SEEDS[split]
    names = [name for name in OTHERS if name not in UNSEEN]
    found = [
        Material(DRAWN, "frontal", [_stored(make_phantom(seed, at, SIZE).image_HW) for at in range(count)]),
        Material(DRAWN, "lateral", [_stored(make_lateral(seed, at, SIZE)) for at in range(count)]),
        Material("drawings", "other", _others(names, seed, count)),
    ]
    if split == "test":
        found.append(Material("drawings of unseen kinds", "other", _others(list(UNSEEN), seed, count)))
    return found


def _others(names: list[str], seed: int, count: int) -> list[np.ndarray]:
    return [_stored(make_other(names[at % len(names)], seed, at // len(names), SIZE)) for at in range(count)]


def _stored(picture_HW: np.ndarray) -> np.ndarray:
    """Without black borders, as an ingest stores it."""
    top, left, height, width = content_box(picture_HW, CleanSettings())
    return np.ascontiguousarray(picture_HW[top : top + height, left : left + width])


def in_pieces(material: Material, seed: int) -> Material:
    """What has a radiograph's grain and is no chest."""
    rng = np.random.default_rng([seed, 4])
    pieces = [np.rint(scrambled(picture_HW, rng, BASE)).astype(np.uint8) for picture_HW in material.pictures]
    return Material(f"{material.source} in pieces", "other", pieces)


def squared(material: Material) -> Material:
    """The same pictures, BASE x BASE by area averaging, for training."""
    squares = [cv2.resize(one, (BASE, BASE), interpolation=cv2.INTER_AREA) for one in material.pictures]
    return replace(material, pictures=squares)


def disturbed(sample: Sample) -> np.ndarray:
    """The sample's picture as its fields say: mirrored, then turned, then as a negative."""
    picture_HW = sample.picture_HW[:, ::-1] if sample.mirrored else sample.picture_HW
    picture_HW = np.rot90(picture_HW, -sample.quarters)
    return np.ascontiguousarray(255 - picture_HW if sample.negative else picture_HW)


def draw_batch(material: list[Material], rng: np.random.Generator, count: int) -> list[Sample]:
    """Samples for training, varied and disturbed. Half of them stand upright; half are mirror images.

    Sources are drawn by the root of their size, so that a small one is not lost beside a large one.
    """
    roots = [(one.kind, len(one.pictures) ** 0.5) for one in material]
    of_kind = {kind: sum(root for other, root in roots if other == kind) for kind in KINDS}
    shares = [KIND_SHARES[kind] * root / of_kind[kind] for kind, root in roots]
    chosen = [material[at] for at in rng.choice(len(material), count, p=shares)]
    small_BHW = varied([one.pictures[int(rng.integers(len(one.pictures)))] for one in chosen], rng)
    upright_B, mirrored_B = rng.random(count) < 0.5, rng.random(count) < 0.5
    quarters_B = np.where(upright_B, 0, rng.integers(0, 4, count))
    negative_B = ~upright_B & (rng.random(count) < 0.5)
    samples = [
        Sample(small_HW, one.kind, int(quarters), bool(negative), bool(mirrored))
        for small_HW, one, quarters, negative, mirrored in zip(
            small_BHW, chosen, quarters_B, negative_B, mirrored_B, strict=True
        )
    ]
    return [replace(sample, picture_HW=disturbed(sample)) for sample in samples]


def varied(pictures: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """uint8, BxSIDExSIDE: another pose, exposure, frame and grain, as other machines and people would make them."""
    values_BHW = np.stack([_posed(picture_HW, rng) for picture_HW in pictures]).astype(np.float32) / 255
    count = len(pictures)

    def of_each(values_B: np.ndarray) -> np.ndarray:
        return values_B.astype(np.float32)[:, None, None]

    values_BHW = values_BHW ** of_each(np.exp(rng.normal(0, 0.35, count)))
    narrow_B = rng.random(count) < 0.3  # a window that cuts off the ends
    low, high = of_each(narrow_B * rng.uniform(0, 0.25, count)), of_each(1 - narrow_B * rng.uniform(0, 0.3, count))
    values_BHW = np.clip((values_BHW - low) / (high - low), 0, 1)
    values_BHW = of_each(rng.uniform(0.0, 0.2, count)) + of_each(rng.uniform(0.5, 0.8, count)) * values_BHW
    grain = rng.standard_normal(values_BHW.shape, np.float32)
    values_BHW += of_each(rng.uniform(0, 0.16, count) ** 2) * grain
    small_BHW = np.rint(255 * np.clip(values_BHW, 0, 1)).astype(np.uint8)
    for small_HW in small_BHW:
        for _ in range(int(rng.integers(0, 4))):
            _mark(small_HW, rng)
    return small_BHW


def _posed(picture_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle, scale = float(np.clip(rng.normal(0, 6), -15, 15)), np.exp(rng.normal(0, 0.10, 2))
    zoom = SIDE / BASE * float(np.exp(rng.normal(0.03, 0.10)))
    turn = cv2.getRotationMatrix2D((0, 0), angle, zoom)
    turn[:, :2] = turn[:, :2] @ np.diag(scale)
    turn[:, 2] = SIDE / 2 - turn[:, :2] @ np.array([BASE / 2, BASE / 2]) + rng.normal(0, 0.05 * SIDE, 2)
    border = cv2.BORDER_REPLICATE if rng.random() < 0.4 else cv2.BORDER_CONSTANT
    smooth_HW = cv2.GaussianBlur(picture_HW, (3, 3), 0.6)  # before every other pixel is left out
    return cv2.warpAffine(smooth_HW, turn, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=border)


def _mark(small_HW: np.ndarray, rng: np.random.Generator) -> None:
    """A marker, or a bar at an edge: at any side alike, so that none of it is a sign of anything."""
    if rng.random() < 0.7:
        where = int(rng.integers(0, SIDE)), int(rng.integers(2, SIDE))
        words = WORDS[int(rng.integers(len(WORDS)))]
        cv2.putText(small_HW, words, where, cv2.FONT_HERSHEY_PLAIN, rng.uniform(0.1, 0.35), int(rng.integers(256)))
        return
    thick, grey = int(rng.integers(1, 5)), (0, int(rng.integers(256)), 255)[int(rng.integers(3))]
    edge = (slice(None, thick), slice(-thick, None))[int(rng.integers(2))]
    small_HW[(edge, slice(None)) if rng.random() < 0.5 else (slice(None), edge)] = grey
