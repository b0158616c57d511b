"""What the analyses ask is what was trained, and their numbers say what they claim to say."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chexworld_ray.analysis.capacity import Features, capacity
from chexworld_ray.analysis.correspondence import Labelled, correspondence, sides, window_of
from chexworld_ray.analysis.layout import layout, make_pair, outside
from chexworld_ray.analysis.outcome import explained, interval
from chexworld_ray.analysis.pictures import pictures
from chexworld_ray.analysis.retrieval import retrieval
from chexworld_ray.analysis.settings import AnalysisSettings
from chexworld_ray.analysis.world import World, context, features, predictions, rank_of, same_place, told
from chexworld_ray.config import ModelSettings, ObjectiveSettings, Science
from chexworld_ray.errors import UserError
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.objectives.world_model import WorldModel, normalised_targets
from chexworld_ray.reports.analyses import picture
from chexworld_ray.views.batch import CropBatch, make_batch
from chexworld_ray.views.masks import Masks

MODEL = ModelSettings(image_size=48, patch_size=12, width=32, depth=2, heads=2, predictor_width=16, predictor_depth=2)
SCIENCE = Science(model=MODEL, objective=ObjectiveSettings(cross_view_targets="all"), global_batch=3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(MODEL, SCIENCE.objective, build_encoder(MODEL, 1)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def world(model: WorldModel) -> World:
    target = build_encoder(MODEL, 2).eval()
    return World("trained", model.encoder, target, model.predictor, SCIENCE, (0.5, 0.25), CPU)


def test_the_predictor_is_asked_as_in_training(model: WorldModel, world: World) -> None:
    """Of whole views, every patch, in the own view and in the other: what the world model itself predicts."""
    rng = np.random.default_rng(0)
    boxes = np.array([[(0, 0, 50, 60), (13, 7, 50, 60)]] * 3, np.int32)
    crops = CropBatch(rng.integers(0, 255, (3, 2, 48, 48), np.uint8), boxes, np.arange(3), np.ones(3, np.float32))
    batch = make_batch(crops, SCIENCE, *world.pixels, CPU)
    every = torch.arange(16).expand(6, -1)
    whole = torch.ones_like(every, dtype=torch.bool)
    batch = dataclasses.replace(batch, masks=Masks(every, whole, every, whole))
    wanted = model(batch, normalised_targets(world.target, batch)).predictions_RBTD
    seen, clean = (part * world.pixels[1] + world.pixels[0] for part in (batch.seen_BVHW, batch.clean_BVHW))
    asked = told(world, batch.actions_BVA[:, 0], 3)
    eyes = context(world, seen[:, 0])
    assert torch.allclose(predictions(world, eyes, asked, same_place(world, 3)), wanted[0], atol=1e-4)
    assert torch.allclose(predictions(world, eyes, asked, batch.relative_BV6[:, 0]), wanted[2], atol=1e-4)
    assert torch.allclose(features(world, clean[:, 1]), normalised_targets(world.target, batch)[:, 1], atol=1e-4)


@given(st.integers(0, 50), st.integers(40, 90), st.integers(40, 90))
def test_offsets_say_where_the_target_lies(world: World, number: int, height: int, width: int) -> None:
    """On a ramp the grey difference of two crops is their distance, whatever the sides of the image."""
    for axis, side in enumerate((height, width)):
        ramp = np.broadcast_to(np.arange(side)[:, None] if axis == 0 else np.arange(side), (height, width))
        pair = make_pair(np.ascontiguousarray(ramp.astype(np.uint8)), world, number, 8)
        moved = 255.0 * float((pair.target_1SS - pair.context_1SS).mean())
        assert float(pair.offsets_C2[0, axis]) * (side // 2) == pytest.approx(moved, abs=0.75)
        assert (pair.offsets_C2.abs() * (side // 2) <= side).all()


def test_distance_outside_of_a_grid_is_in_its_sides() -> None:
    places = torch.tensor([[0.0, 0.0], [3.0, 2.5], [-2.0, 1.0], [3.0, 7.0], [-3.0, 7.0]])
    assert outside(places, 4).tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.25])


@given(st.lists(st.integers(0, 5), min_size=2, max_size=9), st.integers(0, 8))
def test_a_rank_counts_what_fits_better(errors: list[int], true: int) -> None:
    true = true % len(errors)
    found = rank_of(true, torch.tensor(errors, dtype=torch.float32))
    better, as_well = sum(e < errors[true] for e in errors), sum(e == errors[true] for e in errors) - 1
    assert better <= found <= better + as_well


def test_a_model_that_knows_nothing_is_at_chance(world: World) -> None:
    views = np.random.default_rng(0).integers(0, 255, (6, 48, 48), np.uint8)
    found = retrieval([world], views, list("aabbcc"), 16)
    for line in (values for name, values in found.curves.items() if name != "chance"):
        assert line == pytest.approx([1 / 16, 3 / 16, 5 / 16], abs=0.15)
    assert found.curves["chance"] == [1 / 16, 3 / 16, 5 / 16]
    again = retrieval([world], views, list("aabbcc"), 16)
    assert again == found
    told_of = layout([world], list(views), list("aabbcc"), 16)
    assert len(told_of.rows[0]) == len(told_of.columns)


class Says(torch.nn.Module):
    """A predictor that says the same of every image and offset, whatever it is asked."""

    def __init__(self, tokens_PD: torch.Tensor) -> None:
        super().__init__()
        self.tokens_PD = tokens_PD

    def forward(self, context_RKD: torch.Tensor, *_: object) -> torch.Tensor:
        return self.tokens_PD.expand(len(context_RKD), -1, -1)


def shares(world: World, views: np.ndarray, tokens_PD: torch.Tensor) -> dict[tuple[str, str], list[float]]:
    """(predicted by, zero) → variance explained by these tokens, by distance; nothing where no patch lies there."""
    asked = dataclasses.replace(world, predictor=Says(tokens_PD))  # type: ignore[arg-type]
    found = layout([asked], list(views), [f"p{at}" for at in range(len(views))], 6)
    told_of = [name for name in found.columns if name[0].isdigit() or name == "inside"]
    columns = [found.columns.index(name) for name in told_of]
    return {
        (row[1], row[2]): [float(row[at].split()[0]) for at in columns if row[at] != "none known"] for row in found.rows
    }


def test_variance_explained_is_zero_for_who_says_what_the_place_says(world: World) -> None:
    """Against the mean patch the same words earn what the place alone explains."""
    views = np.random.default_rng(1).integers(0, 255, (12, 48, 48), np.uint8)
    wanted_NPD = torch.cat([features(world, make_pair(v, world, n, 6).target_1SS) for n, v in enumerate(views)])
    place_PD = wanted_NPD.mean(dim=0)
    found = shares(world, views, place_PD)
    assert found["predictor", "mean of the place"] == pytest.approx([0.0] * 5, abs=5e-4)
    assert found["predictor", "mean patch"] == found["place alone", "mean patch"]
    assert min(found["place alone", "mean patch"]) > 0.2
    overall_D = place_PD.mean(dim=0)
    found = shares(world, views, overall_D.expand_as(place_PD))
    assert found["predictor", "mean patch"] == pytest.approx([0.0] * 5, abs=5e-4)
    assert max(found["predictor", "mean of the place"]) < -0.2, "who does not know the place is far below its mean"


def test_variance_explained_is_of_sums_so_that_an_image_with_little_to_explain_counts_little(world: World) -> None:
    """Half-way from zero to the truth, a quarter of the error is left."""
    errors, of_zero = np.array([0.25, 0.0, 0.25]), np.array([1.0, 0.0, 1.0])
    assert explained(errors, of_zero, ["a", "b", "c"]).startswith("0.750 [0.750")
    assert explained(0 * errors, of_zero, ["a", "b", "c"]).startswith("1.000")
    assert explained(np.array([2.0, 2.0]), np.array([0.01, 3.99]), ["a", "b"]).startswith("0.000")
    assert explained(errors, 0 * of_zero, ["a", "b", "c"]) == "none known"
    alone = layout([world], [np.zeros((48, 48), np.uint8)], ["p"], 6)
    assert alone.rows[0][3:8] == ["none known"] * 5, "one image is the mean of its places"
    assert picture(alone)[:4] == b"\x89PNG"


def test_collapse_and_the_hospital_are_seen_in_the_features() -> None:
    rng = np.random.default_rng(0)
    where = ["here" if at % 2 else "there" for at in range(400)]
    patients = [f"p{at // 4}" for at in range(400)]

    def row(name: str, values: Any) -> list[str]:
        keys = (where, patients)
        return capacity([Features(name, values, values)], keys, keys).rows[0]

    plain = row("plain", rng.normal(size=(400, 8)).astype(np.float32))
    assert 7.0 < float(plain[1]) <= 8.0
    assert float(plain[4].split()[0]) == pytest.approx(0.5, abs=0.12)
    flat = row("flat", np.outer(rng.normal(size=400), np.arange(1.0, 9.0)).astype(np.float32))
    assert float(flat[1]) == pytest.approx(1.0, abs=0.01)
    apart = rng.normal(size=(400, 8)) + 9.0 * (np.array(where) == "here")[:, None]
    assert row("apart", apart.astype(np.float32))[4] == "1.000 [1.000, 1.000]"


def test_intervals_leave_out_images_without_a_value_and_names_are_checked() -> None:
    assert interval(np.array([0.0, 1.0, np.nan]), ["a", "b", "c"]).startswith("0.500 [")
    with pytest.raises(UserError, match="retrieval, correspondence, layout, pictures, capacity"):
        _ = AnalysisSettings(only="svm").analyses


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 13))
def test_a_place_is_in_the_window_whose_centre_is_nearest(row: float, col: float, side: int) -> None:
    at = window_of((row, col), side)
    centre = np.array([(at // side + 1.0) / (side + 1), (at % side + 1.0) / (side + 1)])
    lowest, highest = 1.0 / (side + 1), side / (side + 1)
    assert np.abs(centre - np.clip([row, col], lowest, highest)).max() <= 0.5 / (side + 1) + 1e-9


def test_each_lung_is_a_side_of_its_own_and_a_heart_is_one() -> None:
    lungs = np.zeros((48, 48), bool)
    lungs[10:40, 5:18], lungs[10:40, 30:45], lungs[0, 0] = True, True, True
    found = sides(lungs)
    assert (found[20, 10], found[20, 40], found[20, 24]) == (1, 2, 0)
    assert sides(lungs[:, :24]).max() == 1


def test_a_place_is_found_again_where_the_image_moved(world: World) -> None:
    """The same picture, shifted by whole patches: the best window lies there, the same place does not."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (48, 96), np.uint8)
    lungs = np.zeros((48, 48), bool)
    lungs[6:42, 2:10] = True
    images = [
        Labelled(
            np.ascontiguousarray(wide[:, 12 * at : 12 * at + 48]),
            f"p{at}",
            {"knob": (0.5, 0.75 - 0.25 * at)},
            {"lung": lungs},
        )
        for at in range(2)
    ]
    found = correspondence([world], images, 0)
    rows = {row[0]: row for row in found.rows}
    assert rows["same place"][1].startswith("0.250")
    assert rows["same place"][3].startswith("1.000"), "the masks are where they were"
    assert [one.title for one in found.maps] == ["looked for", "found"]
    without = correspondence([world], [Labelled(one.view_SS, one.patient) for one in images], 0)
    assert without.rows[0][1:] == ["none known"] * 3


def test_what_the_decoder_draws_of_true_features_beats_the_mean_image(world: World) -> None:
    """A dot at one of sixteen places: features tell where, and an untrained predictor does not know."""
    rng = np.random.default_rng(0)
    views = np.zeros((64, 48, 48), np.uint8)
    for view, (row, col) in zip(views, rng.integers(0, 4, (64, 2)).tolist(), strict=True):
        view[12 * row : 12 * row + 12, 12 * col : 12 * col + 12] = 200
    found = pictures([world], views[:48], list(views[48:]), views[48:], [f"p{at}" for at in range(16)], steps=150)
    masked = next(row for row in found.rows if row[1] == "masked patches")
    predicted, true, mean = (float(cell.split()[0]) for cell in masked[2:])
    assert true < 0.5 * mean
    assert predicted > true
    assert len(found.maps) == 16
    assert picture(found)[:4] == b"\x89PNG"
