"""Golden numbers of what stands around the loss: plan, crops, actions, masks, positions, schedules, metrics."""

from dataclasses import replace

import numpy as np
import torch
from golden.inputs import SCIENCE, VIEWS, Group, boxes, crop_batch, matrix

from chexworld_ray.config import MaskSettings, OptimSettings, Science, ViewSettings
from chexworld_ray.hashing import Purpose, hash_integers
from chexworld_ray.metrics.knn import knn_scores
from chexworld_ray.metrics.rankme import rankme
from chexworld_ray.models.positions import sincos
from chexworld_ray.shards.plan import Plan, RowGroup
from chexworld_ray.shards.reader import expected_positions
from chexworld_ray.training.schedules import ema_momentum, learning_rate, target_memory
from chexworld_ray.views.actions import make_views, sample_actions, sample_flips, sample_jitter
from chexworld_ray.views.crops import crop_boxes, cut
from chexworld_ray.views.masks import Masks, sample_masks
from chexworld_ray.views.random import normal
from chexworld_ray.views.relative import relative_positions

SEED = SCIENCE.seed
ROW_GROUPS = (5, 3, 4, 6, 2, 5, 1, 2)  # two windows an epoch of 28 images


def plan_numbers() -> Group:
    """Images are counted through the row groups."""
    groups = tuple(RowGroup("part.parquet", at, rows) for at, rows in enumerate(ROW_GROUPS))
    first = np.cumsum((0, *ROW_GROUPS))
    ranks = [expected_positions(20, 4, 3, rank, 1).tolist() for rank in range(3)]
    found: Group = {
        "hash of (7, 1, 2, 3)": [int(hash_integers(7, 1, 2, 3))],
        "positions of 3 workers": [at for rank in ranks for at in rank],
    }
    for version in (1, 2):
        plan = Plan(groups, SEED, 8_000, version)
        found[f"version {version}: digest"] = [plan.digest]
        for start, stop in ((0, 60), (101, 113)):
            images = [int(first[group]) + row for group, row in plan.locate(start, stop)]
            found[f"version {version}: images at positions {start} to {stop}"] = images
    return found


def crop_numbers() -> Group:
    """Top, left, height, width of both crops; and how pixels are cut."""
    default, own, apart = ViewSettings(), ViewSettings(crop_sizes="own"), ViewSettings(crop_overlap=(0.1, 0.3))
    large = ViewSettings(crop_scale=(0.9, 1.0))
    asked = {
        "default, position 0": (400, 320, default, 0),
        "default, position 1": (400, 320, default, 1),
        "default, position 70000": (400, 320, default, 70_000),
        "own sizes, position 0": (400, 320, own, 0),
        "own sizes, position 1": (400, 320, own, 1),
        "overlap 0.1 to 0.3, position 0": (400, 320, apart, 0),
        "overlap 0.1 to 0.3, position 1": (400, 320, apart, 1),
        "no such crop in a narrow image": (100, 900, large, 0),
    }
    found: Group = {
        name: crop_boxes(height, width, settings, SEED, position).flatten().tolist()
        for name, (height, width, settings, position) in asked.items()
    }
    # pixels whose weighted means are whole numbers, so that no rounding inside the resizer is seen
    row, column = np.ogrid[:12, :16]
    image = (16 * ((3 * row + 5 * column) % 16)).astype(np.uint8)
    found["cut without resizing"] = cut(image, np.array([2, 3, 2, 2]), 2).flatten().tolist()
    found["cut to a quarter"] = cut(image, np.array([1, 2, 8, 8]), 2).flatten().tolist()
    found["cut to twice the size, diagonal"] = cut(image, np.array([1, 2, 2, 2]), 4).diagonal().tolist()
    return found


def draw_numbers() -> Group:
    """What is drawn at some positions, and what it does to pixels."""
    positions = torch.tensor([0, 3, 70_000])
    many = torch.arange(6)
    crops = torch.from_numpy(crop_batch([0, 3, 70_000]).crops_BVHW)
    clean, seen, _ = make_views(crops, positions, VIEWS, SEED)
    actions = sample_actions(SEED, positions, VIEWS)
    found: Group = {
        f"action at {at}, view {view + 1}": actions[number, view].tolist()
        for number, at in enumerate(positions.tolist())
        for view in range(2)
    }
    found |= {
        "jitter": sample_jitter(SEED, many, ViewSettings()).flatten().tolist(),
        "flips": sample_flips(SEED, many, VIEWS).flatten().int().tolist(),
        "noise": normal(SEED, many, Purpose.NOISE, 1).flatten().tolist(),
    }
    plain = ViewSettings()
    side = make_views(crops, positions, replace(VIEWS, blur_side=plain.blur_side, noise_sigma=(0.0, 0.0)), SEED)[1]
    found["seen views under the default side of blur, no noise, standard deviations"] = (
        side.std(dim=(2, 3)).flatten().tolist()
    )
    found["default chances of mirror, tone, blur, jitter; noise"] = [
        plain.flip_probability,
        plain.tone_probability,
        plain.blur_probability,
        plain.jitter_probability,
        *plain.noise_sigma,
    ]
    for name, views in (("clean", clean), ("seen", seen)):
        found[f"{name} views, means"] = views.mean(dim=(2, 3)).flatten().tolist()
        found[f"{name} views, standard deviations"] = views.std(dim=(2, 3)).flatten().tolist()
    return found


def picture(masks: Masks, grid: int) -> list[str]:
    """The views of one image beside each other, row by row: c context, t target, X both."""
    pictures = np.full((len(masks.context_index_MC), grid * grid), ".")
    for view, row in enumerate(pictures):
        row[masks.context_index_MC[view][masks.context_valid_MC[view]].numpy()] = "c"
        targets = masks.target_index_MT[view][masks.target_valid_MT[view]].numpy()
        row[targets] = np.where(row[targets] == "c", "X", "t")
    return ["  ".join("".join(line) for line in lines) for lines in pictures.reshape(-1, grid, grid).swapaxes(0, 1)]


def mask_numbers() -> Group:
    """Sets, not orders: topk may return its choice in any order."""
    default, hanging, small = MaskSettings(), MaskSettings(overhang=True), SCIENCE.masks
    found: Group = {}
    for name, grid, settings, position in (
        ("14x14", 14, default, 0),
        ("8x8, overhang", 8, hanging, 3),
        ("4x4, position 11", 4, small, 11),
        ("4x4, position 17", 4, small, 17),
    ):
        masks = sample_masks(SEED, torch.tensor([position]), 2, grid, settings)
        found[name] = picture(masks, grid)
        tokens = (masks.context_valid_MC, masks.target_valid_MT)
        found[f"{name}: slots of context and targets"] = [valid.shape[1] for valid in tokens]
    return found


def position_numbers() -> Group:
    """Where views lie in one another, for all kinds of mirrors; and the code of a place."""
    flips = torch.tensor([[False, False], [True, False], [True, True]])
    relative = relative_positions(torch.from_numpy(np.stack([boxes(at) for at in range(3)])), flips)
    names = ("neither mirrored", "first mirrored", "both mirrored")
    found: Group = {name: relative[number].flatten().tolist() for number, name in enumerate(names)}
    found["code of row 1.5, column -2.25"] = sincos(torch.tensor([[1.5, -2.25]]), 16).flatten().tolist()
    return found


def schedule_numbers() -> Group:
    """Of the default settings, over a run of 1000 images."""
    optim = OptimSettings()
    seen = (0, 50, 133, 134, 400, 567, 900, 1000, 1100)
    return {
        "learning rate": [learning_rate(optim, at, 1000) for at in seen],
        "EMA momentum": [ema_momentum(optim, at, 1000) for at in seen],
        "part of the target that is its start": [target_memory(optim, at, 1000, 10) for at in seen],
        "global batches": [
            replace(Science(), epochs=1.5, global_batch=10).total_batches(85),
            replace(Science(), epochs=0.01, global_batch=10).total_batches(85),
        ],
    }


def metric_numbers() -> Group:
    """RankMe, also of features that are not all finite, and kNN scores."""
    features, tests = matrix(40, 6, 1), matrix(6, 6, 2)
    truth = np.array([0, 1, 1, 0, 1] * 8)
    spoilt = torch.from_numpy(matrix(12, 4, 3))
    spoilt[5, 2] = float("nan")
    return {
        "RankMe": [rankme(torch.from_numpy(features)), rankme(spoilt)],
        "kNN": knn_scores(features, truth, tests).tolist(),
    }
