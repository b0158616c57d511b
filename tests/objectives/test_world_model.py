"""The loss against a plain reimplementation from the definition, one image and one token at a time."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from chexworld_ray.config import MaskSettings, ModelSettings, ObjectiveSettings, Science, ViewSettings
from chexworld_ray.hashing import Purpose
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.positions import grid_positions
from chexworld_ray.models.predictor import QueryTensors
from chexworld_ray.objectives.sigreg import POINTS, REACH, sigreg, sums_of, waves_of
from chexworld_ray.objectives.tasks import TASKS
from chexworld_ray.objectives.world_model import WorldModel, normalised_targets
from chexworld_ray.views.actions import IDENTITY
from chexworld_ray.views.batch import CropBatch, WorldModelBatch, make_batch
from chexworld_ray.views.random import uniform

MODEL = ModelSettings(image_size=64, patch_size=16, width=48, depth=2, heads=3, predictor_width=24, predictor_depth=2)
MASKS = MaskSettings(context_tokens=7, target_tokens=8)
BOXES = ((0, 0, 50, 60), (13, 7, 40, 66))
POSITIONS = (4, 8, 9)  # mirrored against one another, both mirrored, mirrored
FLIPS = (uniform(0, torch.tensor(POSITIONS), Purpose.FLIP, 2) < 0.5).tolist()


def make(
    kind: str, cross: str = "masked", extra: dict[str, float] | None = None
) -> tuple[WorldModel, WorldModelBatch, Science]:
    science = Science(
        model=MODEL,
        masks=MASKS,
        views=ViewSettings(flip_probability=0.5),
        objective=ObjectiveSettings(kind=kind, cross_view_targets=cross, **(extra or {})),
        global_batch=3,
    )
    torch.manual_seed(0)
    world = WorldModel(MODEL, science.objective, build_encoder(MODEL, 0)).eval()
    rng = np.random.default_rng(0)
    crops = CropBatch(
        rng.integers(0, 255, (3, 2, 64, 64), np.uint8),
        np.array([BOXES] * 3, np.int32),
        np.array(POSITIONS),
        np.ones(3, np.float32),
    )
    return world, make_batch(crops, science, 0.5, 0.25, torch.device("cpu")), science


def reference(world: WorldModel, batch: WorldModelBatch, kind: str, cross: str) -> torch.Tensor:
    """Image by image, direction by direction, from the definitions; the target encoder is the encoder."""
    tasks, grid = TASKS[kind], MODEL.grid
    losses = []
    places = grid_positions(grid)
    for image in range(3):
        of_part: dict[str, list[torch.Tensor]] = {}
        for source, view, acted, part in tasks.directions:
            row = 2 * image + source
            keep = batch.masks.context_valid_MC[row]
            context_index = batch.masks.context_index_MC[row][keep]
            seen = (batch.seen_BVHW if acted else batch.clean_BVHW)[image, source]
            context = world.encoder(seen[None], context_index[None])
            row = 2 * image + view
            wanted = batch.masks.target_index_MT[row][batch.masks.target_valid_MT[row]]
            if cross == "all" and source != view:
                wanted = torch.arange(grid * grid)
            if part == "domain":
                wanted = context_index
            tokens = world.encoder(batch.clean_BVHW[image, view][None])[0]
            truth = F.layer_norm(tokens, (48,))[wanted]
            # where the patches of the target's view lie, in pixels of the image, then in the context's grid
            (top, left, height, width), (top2, left2, height2, width2) = BOXES[source], BOXES[view]
            mirrored, mirrored2 = FLIPS[image][source], FLIPS[image][view]
            rows, cols = places[wanted].T
            cols = grid - 1 - cols if mirrored2 else cols
            rows = (top2 + (rows + 0.5) / grid * height2 - top) / height * grid - 0.5
            cols = (left2 + (cols + 0.5) / grid * width2 - left) / width * grid - 0.5
            cols = grid - 1 - cols if mirrored else cols
            query = torch.stack([rows, cols], dim=-1) if tasks.tell_delta and source != view else places[wanted]
            told = batch.actions_BVA[image, source] if acted and tasks.tell_action else torch.tensor(IDENTITY)
            flip = float(mirrored != mirrored2) if tasks.tell_action else 0.0
            guess = world.predictor(
                context,
                places[context_index][None],
                torch.ones(1, len(context_index), dtype=torch.bool),
                QueryTensors(
                    query[None],
                    torch.ones(1, len(wanted), dtype=torch.bool),
                    torch.tensor([[height2 / height, width2 / width]]),
                    torch.cat([told, torch.tensor([flip])])[None],
                ),
            )[0]
            of_part.setdefault(part, []).append(((guess - truth) ** 2).mean())
        means = torch.stack([torch.stack(values).mean() for values in of_part.values()])
        losses.append(means.sum() if kind == "naive_sum" else means.mean())
    return torch.stack(losses)


@pytest.mark.parametrize("kind", sorted(TASKS))
@pytest.mark.parametrize("cross", ["masked", "all"])
def test_loss_is_the_definition(kind: str, cross: str) -> None:
    world, batch, _ = make(kind, cross)
    got = world(batch, normalised_targets(world.encoder, batch))
    assert torch.allclose(got.total_B, reference(world, batch, kind, cross), rtol=1e-4)
    assert ("global" in world.parts) == (kind not in ("local", "local_domain"))


def test_the_predictor_is_told_of_place_size_and_mirror() -> None:
    """Each changes what is predicted across views, and nothing within a view."""
    world, batch, _ = make("chexworld")
    before = world(batch, normalised_targets(world.encoder, batch)).parts_LB
    for number in range(6):
        changed = batch.relative_BV6.clone()
        changed[..., number] += 1.0 if number == 4 else 0.4
        other = world(dataclasses.replace(batch, relative_BV6=changed), normalised_targets(world.encoder, batch))
        assert torch.allclose(other.parts_LB[0], before[0], rtol=1e-5)
        assert (other.parts_LB[1] - before[1]).abs().max() > 1e-6, number


@pytest.mark.parametrize("extra", ["visible_weight", "sigreg_weight"])
def test_an_extra_term_is_added_with_its_weight(extra: str) -> None:
    plain, batch, _ = make("chexworld")
    targets = normalised_targets(plain.encoder, batch)
    base = plain(batch, targets)
    world, _, _ = make("chexworld", extra={extra: 0.3})
    got = world(batch, targets)
    assert torch.allclose(got.total_B, base.total_B + 0.3 * got.parts_LB[-1], rtol=1e-5)
    assert torch.allclose(got.parts_LB[:2], base.parts_LB, rtol=1e-5)
    assert got.parts_LB[-1].min() > 0


def test_visible_loss_is_the_error_on_what_was_seen() -> None:
    world, batch, _ = make("local_domain", extra={"visible_weight": 1.0})
    targets = normalised_targets(world.encoder, batch)
    got = world(batch, targets).parts_LB[-1]
    expected = []
    for image in range(3):
        of_view = []
        for view in range(2):
            row = 2 * image + view
            index, wanted = batch.masks.context_index_MC[row], batch.masks.target_index_MT[row]
            valid = batch.masks.context_valid_MC[row]
            places = grid_positions(MODEL.grid)
            context = world.encoder(batch.seen_BVHW[image, view][None], index[None], valid[None])
            told = torch.cat([batch.actions_BVA[image, view], torch.zeros(1)])
            asked = QueryTensors(
                places[wanted][None], batch.masks.target_valid_MT[row][None], torch.ones(1, 2), told[None]
            )
            both = world.predictor(context, places[index][None], valid[None], asked, with_context=True)
            errors = (both[0, : len(index)] - targets[image, view][index]).square().mean(dim=-1)
            of_view.append(errors[valid].mean())
        expected.append(torch.stack(of_view).mean())
    assert torch.allclose(got, torch.stack(expected), rtol=1e-4)


def distance(embeddings_BD: torch.Tensor, weights_B: torch.Tensor, directions_DS: torch.Tensor) -> torch.Tensor:
    """SIGReg of one stream."""
    waves = waves_of(embeddings_BD[None], directions_DS)
    return sigreg(waves, sums_of(waves, weights_B))[0]


def plain_distance(embeddings_BD: torch.Tensor, directions_DS: torch.Tensor) -> torch.Tensor:
    """From the definition: N times the weighted square distance of characteristic functions, mean over slices."""
    points = torch.linspace(-REACH, REACH, POINTS)
    normal = torch.exp(-0.5 * points**2)
    found = []
    for direction_D in (directions_DS / directions_DS.norm(dim=0)).T:
        function = torch.exp(1j * (embeddings_BD @ direction_D)[:, None] * points).mean(dim=0)
        found.append(torch.trapezoid((function - normal).abs().square() * normal, points) * len(embeddings_BD))
    return torch.stack(found).mean()


def test_sigreg_and_its_gradient_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = (torch.randn(24, 8, generator=generator) * 0.7 + 0.2).requires_grad_()
    directions = torch.randn(8, 12, generator=generator)
    waves = waves_of(torch.stack([embeddings[:12], embeddings[12:]]), directions)  # two streams of 12 images
    of_images = sigreg(waves, sums_of(waves, torch.ones(12)))
    expected = plain_distance(embeddings, directions)
    assert torch.allclose(of_images, expected.expand(12), rtol=1e-4)
    (got,) = torch.autograd.grad(of_images.mean(), embeddings)
    (wanted,) = torch.autograd.grad(expected, embeddings)
    assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-6)


def test_sigreg_tells_a_normal_cloud_from_others() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(512, 16, generator=generator)
    directions = torch.randn(16, 64, generator=generator)
    ones = torch.ones(512)
    good = float(distance(normal, ones, directions))
    collapsed = normal * 0.05
    line = normal[:, :1].expand(-1, 16)
    for name, bad in (("collapsed", collapsed), ("one direction", line), ("shifted", normal + 1.0)):
        assert float(distance(bad, ones, directions)) > 5 * good, name
    half = torch.cat([torch.ones(256), torch.zeros(256)])
    assert float(distance(normal, half, directions)) == pytest.approx(
        float(distance(normal[:256], ones[:256], directions)), rel=1e-4
    )


def test_target_gets_no_gradient_and_both_parts_learn() -> None:
    world, batch, _ = make("chexworld")
    targets = normalised_targets(world.encoder, batch)
    assert not targets.requires_grad
    world(batch, targets).total_B.sum().backward()
    assert all(p.grad is not None for p in world.parameters() if p.requires_grad)


def test_targets_are_normalised_tokens() -> None:
    world, batch, _ = make("chexworld")
    targets = normalised_targets(world.encoder, batch)
    assert targets.shape == (3, 2, 16, 48)
    assert torch.allclose(targets.mean(dim=-1), torch.zeros(3, 2, 16), atol=1e-5)
    assert torch.allclose(targets.std(dim=-1, unbiased=False), torch.ones(3, 2, 16), atol=1e-3)


def test_images_do_not_influence_one_another() -> None:
    world, batch, _ = make("chexworld")
    whole = world(batch, normalised_targets(world.encoder, batch)).total_B
    pixels = batch.seen_BVHW.clone()
    pixels[0] += 1.0
    changed = dataclasses.replace(batch, seen_BVHW=pixels)
    other = world(changed, normalised_targets(world.encoder, changed)).total_B
    assert torch.allclose(other[1:], whole[1:], atol=1e-6)
    assert not torch.allclose(other[0], whole[0])
