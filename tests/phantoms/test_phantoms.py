"""Phantoms: seeded, anatomically ordered, with ground truth that fits the picture."""

import numpy as np
import pytest

from chexworld_ray.phantoms.dataset import Phantom, make_phantom
from chexworld_ray.phantoms.findings import FINDINGS


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(0, index, 128) for index in range(80)]


def test_same_seed_same_picture(phantoms: list[Phantom]) -> None:
    again = make_phantom(0, 7, 128)
    assert np.array_equal(again.image_HW, phantoms[7].image_HW)
    assert not np.array_equal(make_phantom(1, 7, 128).image_HW, phantoms[7].image_HW)


def test_lungs_are_dark_and_of_plausible_size(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        lung = phantom.masks["lung"] & ~phantom.masks["heart"]
        assert 0.12 < phantom.masks["lung"].mean() < 0.5
        middle = phantom.image_HW[40:110, 56:72]
        assert phantom.image_HW[lung].mean() < middle.mean()


def test_landmarks_lie_in_order_and_inside(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        at = {point["name"]: (point["row"], point["col"]) for point in phantom.landmarks}
        for row, col in at.values():
            assert 0 < row < 128
            assert 0 < col < 128
        for side in ("left", "right"):
            assert (
                at[f"apex_{side}"][0] < at[f"hilum_{side}"][0] < at[f"dome_{side}"][0] < at[f"costophrenic_{side}"][0]
            )
        assert at["apex_right"][1] < at["carina"][1] < at["apex_left"][1]  # the patient's right is at the left


def test_findings_occur_and_change_the_picture(phantoms: list[Phantom]) -> None:
    for finding in FINDINGS:
        share = np.mean([phantom.findings[finding] for phantom in phantoms])
        assert 0.05 < share < 0.6
    hearts = {present: [] for present in (False, True)}
    for phantom in phantoms:
        lung_columns = np.flatnonzero(phantom.masks["lung"].any(axis=0))
        heart_columns = np.flatnonzero(phantom.masks["heart"].any(axis=0))
        hearts[phantom.findings["cardiomegaly"]].append(np.ptp(heart_columns) / np.ptp(lung_columns))
    assert np.mean(hearts[True]) > np.mean(hearts[False]) + 0.08


def test_boxes_enclose_findings_only_where_there_are_some(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        labels = {box["label"] for box in phantom.boxes}
        assert labels <= {name for name, present in phantom.findings.items() if present}
        for box in phantom.boxes:
            assert box["w"] > 0
            assert box["x"] + box["w"] <= 128
            assert box["y"] + box["h"] <= 128


def test_hospitals_can_be_told_apart(phantoms: list[Phantom]) -> None:
    noise: dict[str, list[float]] = {}
    for phantom in phantoms:
        values = phantom.image_HW.astype(float)
        noise.setdefault(phantom.hospital.name, []).append(np.abs(np.diff(values, n=2, axis=1)).mean())
    means = sorted(np.mean(values) for values in noise.values())
    assert len(means) == 3
    assert means[2] > 1.5 * means[0]


def test_patients_share_anatomy_not_pixels(phantoms: list[Phantom]) -> None:
    assert phantoms[0].patient == phantoms[1].patient
    assert phantoms[0].findings == phantoms[1].findings
    assert not np.array_equal(phantoms[0].image_HW, phantoms[1].image_HW)
