"""A folder of phantoms: images, organ masks and labels.csv, ready for `chexworld ingest`."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from chexworld_ray.phantoms.anatomy import Anatomy, sample_anatomy
from chexworld_ray.phantoms.canvas import Canvas
from chexworld_ray.phantoms.findings import FINDINGS, draw_findings, sample_findings
from chexworld_ray.phantoms.render import HOSPITALS, Hospital, compose, film
from chexworld_ray.storage import Place, write_bytes

TABLE = "labels.csv"
IMAGES_PER_PATIENT = 2
ORGANS = ("lung", "heart")


@dataclass(frozen=True)
class Phantom:
    """One radiograph and its ground truth. Boxes and landmarks are in pixels."""

    image_HW: np.ndarray
    masks: dict[str, np.ndarray]
    findings: dict[str, bool]
    landmarks: list[dict[str, Any]]
    boxes: list[dict[str, Any]]
    hospital: Hospital
    patient: int


def make_phantom(seed: int, index: int, size: int) -> Phantom:
    """The phantom number `index` of a seed: a pure function. Neighbouring indices share a patient."""
    patient = index // IMAGES_PER_PATIENT
    of_patient = np.random.default_rng([seed, 0, patient])
    rng = np.random.default_rng([seed, 1, index])
    anatomy, findings = sample_anatomy(of_patient), sample_findings(of_patient)
    hospital = HOSPITALS[int(of_patient.integers(len(HOSPITALS)))]
    pose = rng.normal(0.0, (0.02, 0.025, 0.02, 0.015))
    canvas = Canvas(size, float(pose[0]), 1.0 + float(pose[1]), (float(pose[2]), float(pose[3])))
    return _draw(anatomy, findings, hospital, canvas, rng, patient)


def _draw(
    anatomy: Anatomy,
    findings: dict[str, bool],
    hospital: Hospital,
    canvas: Canvas,
    rng: np.random.Generator,
    patient: int,
) -> Phantom:
    lungs = {side: anatomy.lung(side, canvas) for side in ("right", "left")}
    layers = draw_findings(findings, anatomy, canvas, lungs, rng)
    picture = film(compose(anatomy, canvas, layers, lungs, rng), hospital, canvas, rng)
    masks = {
        "lung": sum(lungs.values()) > 0.5,
        "heart": anatomy.heart(canvas, layers.heart_enlargement) > 0.5,
    }
    landmarks = []
    for name, (x, y) in anatomy.landmarks().items():
        column, row = canvas.to_pixels(np.array(x), np.array(y))
        landmarks.append({"name": name, "row": round(float(row), 2), "col": round(float(column), 2)})
    boxes = [box for name, area in layers.areas if (box := _box(name, area)) is not None]
    return Phantom(picture, masks, findings, landmarks, boxes, hospital, patient)


def _box(name: str, area: np.ndarray) -> dict[str, Any] | None:
    rows, columns = np.nonzero(area > 0.5)
    if not rows.size:
        return None
    left, top = int(columns.min()), int(rows.min())
    return {
        "label": name,
        "x": left,
        "y": top,
        "w": int(columns.max()) + 1 - left,
        "h": int(rows.max()) + 1 - top,
    }


def write_phantoms(out: Place, count: int, seed: int, size: int) -> None:
    """Write `count` phantoms of size x size pixels below a folder, with masks and labels.csv."""
    columns = [
        "path",
        "patient",
        "hospital",
        "view",
        *(f"mask_{organ}" for organ in ORGANS),
        *FINDINGS,
        "landmarks",
        "boxes",
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, columns)
    table.writeheader()
    for index in range(count):
        phantom = make_phantom(seed, index, size)
        name = f"{index:06d}.png"
        write_bytes(out / "images" / name, _png(phantom.image_HW))
        for organ in ORGANS:
            write_bytes(out / "masks" / organ / name, _png(phantom.masks[organ].astype(np.uint8) * 255))
        table.writerow(
            {
                "path": f"images/{name}",
                "patient": f"phantom-{phantom.patient:05d}",
                "hospital": phantom.hospital.name,
                "view": phantom.hospital.projection,
                **{f"mask_{organ}": f"masks/{organ}/{name}" for organ in ORGANS},
                **{finding: int(phantom.findings[finding]) for finding in FINDINGS},
                "landmarks": json.dumps(phantom.landmarks),
                "boxes": json.dumps(phantom.boxes),
            }
        )
    write_bytes(out / TABLE, text.getvalue().encode())


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()
