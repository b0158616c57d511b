"""Domain variation (Table 4): is the image that was acted on found again among 64 that look like it?

Per image, candidates y_1 … y_C are versions of other tone and blur; each gets a fresh action a_i: x_i = T(y_i; a_i).
E_ij = ‖g(f(x_i); a_i) − f''(y_j)‖, mean over positions; recall@k: y_i is among the k candidates with the least error.

Legend: N images, C candidates, S side of a view, P patches, D width.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from chexworld_ray.analysis.outcome import Outcome, interval
from chexworld_ray.analysis.world import FIRST, World, context, features, grey, predictions, same_place, told
from chexworld_ray.config import ViewSettings
from chexworld_ray.views.actions import ACTION_SIZE, apply_actions, sample_actions

KS = (1, 3, 5)


def retrieval(worlds: Sequence[World], views_NSS: np.ndarray, patients: Sequence[str], candidates: int) -> Outcome:
    """Recall@1, 3, 5 with the action told and with the identity told in its place, and chance."""
    chance = [f"{k / candidates:.3f}" for k in KS]
    rows = [["chance", "", *chance]]
    curves = {"chance": [k / candidates for k in KS]}
    for world in worlds:
        hits = np.array([_hits(world, view, number, candidates) for number, view in enumerate(views_NSS)])
        for at, name in enumerate(("told", "not told")):
            rows.append([world.name, name, *(interval(hits[:, at, k], patients) for k in range(len(KS)))])
            curves[f"{world.name}, action {name}"] = hits[:, at].mean(axis=0).tolist()
    return Outcome(
        "retrieval",
        f"Domain variation: which of {candidates} versions of the image was acted on?",
        ["model", "action", *(f"recall@{k}" for k in KS)],
        rows,
        "The claim holds where recall with the action told is above both chance and recall without it.",
        curves,
    )


def _hits(world: World, view_SS: np.ndarray, number: int, candidates: int) -> np.ndarray:
    """Recall@KS of one image, mean over its candidates, with and without the action: 2xK."""
    settings, device = world.science.views, world.device
    # every version has a tone of its own; blur comes as often as in training
    settings = replace(settings, tone_probability=1.0, noise_sigma=(0.0, 0.0))
    at = FIRST + number * candidates + torch.arange(candidates, device=device)
    both = sample_actions(world.science.seed, at, settings)  # two for each: what makes the candidate, and its action
    image = grey(world, view_SS).expand(candidates, -1, -1)
    clean = _acted(image, both[:, 0], settings)
    seen = context(world, _acted(clean, both[:, 1], settings))
    wanted_PCD = features(world, clean).transpose(0, 1)
    found = []
    for actions in (both[:, 1], None):
        predicted_PCD = predictions(
            world, seen, told(world, actions, candidates), same_place(world, candidates)
        ).transpose(0, 1)
        errors_CC = torch.cdist(predicted_PCD, wanted_PCD).mean(dim=0)
        better = (errors_CC < errors_CC.diagonal()[:, None]).sum(dim=1)
        found.append([float((better < k).float().mean()) for k in KS])
    return np.array(found)


def _acted(images_CSS: Tensor, actions_CA: Tensor, settings: ViewSettings) -> Tensor:
    assert actions_CA.shape[1] == ACTION_SIZE
    return apply_actions(images_CSS.clone(), actions_CA, None, settings)
