"""The loss against a plain reimplementation from the definition, one image and one token at a time."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from chexworld_ray.config import MaskSettings, ModelSettings, ObjectiveSettings, Science
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.positions import grid_positions
from chexworld_ray.objectives.world_model import TASKS, WorldModel, normalised_targets
from chexworld_ray.views.actions import IDENTITY
from chexworld_ray.views.batch import CropBatch, WorldModelBatch, make_batch

MODEL = ModelSettings(image_size=64, patch_size=16, width=48, depth=2, heads=3, predictor_width=24, predictor_depth=2)
MASKS = MaskSettings(context_tokens=7, target_tokens=8)


def make(kind: str, cross: str = "masked") -> tuple[WorldModel, WorldModelBatch, Science]:
    science = Science(
        model=MODEL,
        masks=MASKS,
        objective=ObjectiveSettings(kind=kind, cross_view_targets=cross),
        global_batch=3,
    )
    torch.manual_seed(0)
    world = WorldModel(MODEL, science.objective, build_encoder(MODEL, 0)).eval()
    rng = np.random.default_rng(0)
    crops = CropBatch(
        rng.integers(0, 255, (3, 2, 64, 64), np.uint8),
        np.array([[[0, 0, 50, 60], [13, 7, 50, 60]]] * 3, np.int32),
        np.array([4, 5, 6]),
        np.ones(3, np.float32),
    )
    return world, make_batch(crops, science, 0.5, 0.25, torch.device("cpu")), science


def reference(world: WorldModel, batch: WorldModelBatch, kind: str, cross: str) -> torch.Tensor:
    tasks, grid = TASKS[kind], MODEL.grid
    target_encoder = world.encoder
    losses = []
    pairs = [(0, 0), (1, 1)] + ([(0, 1), (1, 0)] if tasks.cross_view else [])
    places = grid_positions(grid)
    for image in range(3):
        of_pair = []
        for source, view in pairs:
            row = 2 * image + source
            keep = batch.masks.context_valid_MC[row]
            context_index = batch.masks.context_index_MC[row][keep]
            seen = (batch.seen_BVHW if tasks.domain else batch.clean_BVHW)[image, source]
            context = world.encoder(seen[None], context_index[None])
            row = 2 * image + view
            wanted = batch.masks.target_index_MT[row][batch.masks.target_valid_MT[row]]
            if cross == "all" and source != view:
                wanted = torch.arange(grid * grid)
            tokens = target_encoder(batch.clean_BVHW[image, view][None])[0]
            truth = F.layer_norm(tokens, (48,))[wanted]
            sign = view - source if tasks.tell_delta else 0
            query = places[wanted] + sign * grid * batch.delta_B2[image]
            told = batch.actions_BVA[image, source] if tasks.domain and tasks.tell_action else torch.tensor(IDENTITY)
            guess = world.predictor(
                context,
                places[context_index][None],
                torch.ones(1, len(context_index), dtype=torch.bool),
                query[None],
                torch.ones(1, len(wanted), dtype=torch.bool),
                told[None],
            )[0]
            of_pair.append(((guess - truth) ** 2).mean())
        losses.append(torch.stack(of_pair).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("kind", sorted(TASKS))
@pytest.mark.parametrize("cross", ["masked", "all"])
def test_loss_is_the_definition(kind: str, cross: str) -> None:
    world, batch, _ = make(kind, cross)
    got = world(batch, normalised_targets(world.encoder, batch))
    assert torch.allclose(got.total, reference(world, batch, kind, cross), rtol=1e-4)
    assert (got.cross_view is None) == (not TASKS[kind].cross_view)


def test_target_gets_no_gradient_and_both_parts_learn() -> None:
    world, batch, _ = make("chexworld")
    targets = normalised_targets(world.encoder, batch)
    assert not targets.requires_grad
    world(batch, targets).total.sum().backward()
    assert all(p.grad is not None for p in world.parameters() if p.requires_grad)


def test_targets_are_normalised_tokens() -> None:
    world, batch, _ = make("chexworld")
    targets = normalised_targets(world.encoder, batch)
    assert targets.shape == (3, 2, 16, 48)
    assert torch.allclose(targets.mean(dim=-1), torch.zeros(3, 2, 16), atol=1e-5)
    assert torch.allclose(targets.std(dim=-1, unbiased=False), torch.ones(3, 2, 16), atol=1e-3)


def test_images_do_not_influence_one_another() -> None:
    world, batch, _ = make("chexworld")
    whole = world(batch, normalised_targets(world.encoder, batch)).total
    pixels = batch.seen_BVHW.clone()
    pixels[0] += 1.0
    changed = dataclasses.replace(batch, seen_BVHW=pixels)
    other = world(changed, normalised_targets(world.encoder, changed)).total
    assert torch.allclose(other[1:], whole[1:], atol=1e-6)
    assert not torch.allclose(other[0], whole[0])
