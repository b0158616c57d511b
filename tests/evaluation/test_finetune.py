"""Encoders that are trained on: classification and segmentation of small images."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save

from chexworld_ray.config import ModelSettings
from chexworld_ray.evaluation import head as head_module
from chexworld_ray.evaluation.augment import centre_view, training_masks, training_views, whole_mask
from chexworld_ray.evaluation.examples import Examples, Output, Problem
from chexworld_ray.evaluation.features import embed
from chexworld_ray.evaluation.finetune import Classifier
from chexworld_ray.evaluation.head import probe_head
from chexworld_ray.evaluation.results import ScoredTrial, result_rows
from chexworld_ray.evaluation.segment import dice_and_bce
from chexworld_ray.evaluation.settings import (
    AugmentSettings,
    EvaluationSettings,
    FinetuneSettings,
    FitSettings,
    Head,
    SegmentSettings,
)
from chexworld_ray.evaluation.tasks import Task
from chexworld_ray.evaluation.trial import Scored, Trial, run_trial
from chexworld_ray.models.backbone import Backbone, Size, read_backbone
from chexworld_ray.models.predictor import Predictor
from chexworld_ray.models.weights import untrained_encoder_bytes
from chexworld_ray.shards.decode import encode_grey_jpeg
from chexworld_ray.shards.masks import encode_mask

CPU = torch.device("cpu")
SIDE = 48
MODEL = ModelSettings(image_size=48, patch_size=12, width=48, depth=2, heads=2, predictor_width=48, predictor_depth=1)
ENCODER = untrained_encoder_bytes(MODEL, 0, (0.4, 0.2))
SPLITS = {"train": (160, 0), "val": (40, 1), "test": (60, 2)}


def discs(count: int, seed: int) -> Examples:
    """Noise, and on half of the images a bright disc somewhere in the middle; every tenth mask is not known."""
    rng = np.random.default_rng(seed)
    images, masks = [], []
    truth = rng.integers(0, 2, count).astype(float)
    for number, there in enumerate(truth):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if there:
            row, col = rng.integers(16, 32, 2).tolist()
            cv2.circle(mask, (col, row), 8, 1, -1)
        pixels = rng.normal(90, 15, (SIDE, SIDE)) + 90.0 * mask
        images.append(encode_grey_jpeg(pixels.clip(0, 255).astype(np.uint8), 95))
        masks.append(None if number % 10 == 9 else encode_mask(mask > 0))
    names = [f"{seed}-{number:03d}" for number in range(count)]
    return Examples(names, names, {"disc": truth}, images=images, masks={"disc": masks})


@pytest.fixture(scope="module")
def parts() -> dict[str, Examples]:
    return {split: discs(*made) for split, made in SPLITS.items()}


def opened(predictor: bool = False) -> Callable[[Size, float], Backbone]:
    torch.manual_seed(0)
    extra = save(Predictor(MODEL).state_dict()) if predictor else None
    return lambda size, drop_path: read_backbone(ENCODER, "here", size, drop_path, extra)


def measured(done: Scored) -> dict[str, float]:
    trial = ScoredTrial(run="r", images_seen=1, kind="checkpoint", seed=0, task="t", protocol="p", scores=done.scores)
    return {row.metric: row.value for row in result_rows([trial])}


@pytest.mark.parametrize("predictor", [False, True])
def test_fine_tuning_learns_what_a_random_encoder_does_not_know(parts: dict[str, Examples], predictor: bool) -> None:
    own = FinetuneSettings(
        lr=2e-3,
        drop_path=0.1,
        predictor=predictor,
        augment=AugmentSettings(crop_scale=(0.8, 1.0)),
        fit=FitSettings(epochs=15, batch=16, patience=15),
    )
    trial = Trial(task=Task(name="t", dataset="t"), protocol="finetune")
    done = run_trial(parts, trial, EvaluationSettings(finetune=own), opened(predictor), CPU)
    assert measured(done)["auroc"] > 0.95
    assert (done.facts["train"], done.facts["val"]) == (160, 40)


@pytest.mark.parametrize(("head", "chosen"), [("random", "epoch 1 of 3"), ("probe", "epoch 0 of 2")])
def test_fine_tuning_stops_early_and_keeps_the_best_epoch(parts: dict[str, Examples], head: Head, chosen: str) -> None:
    """At a rate of nothing no epoch is better than the first, which is the probe itself where the head starts there."""
    own = FinetuneSettings(head=head, lr=0.0, drop_path=0.0, fit=FitSettings(epochs=30, batch=32, patience=2))
    trial = Trial(task=Task(name="t", dataset="t"), protocol="finetune", fraction=0.3)
    told: list[tuple[int, float]] = []
    done = run_trial(parts, trial, EvaluationSettings(finetune=own), opened(), CPU, lambda *heard: told.append(heard))
    assert done.facts["chosen"] == f"lr 0, {chosen}"
    assert [epoch for epoch, _ in told] == ([0, 1, 2] if head == "probe" else [1, 2, 3])
    assert len({quality for _, quality in told}) == 1
    assert done.facts["train"] == 48


def three_kinds(parts: dict[str, Examples]) -> dict[str, Examples]:
    """The discs as one of three kinds beside the yes or no, unknown on every seventh image."""
    rng = np.random.default_rng(0)
    found = {}
    for split, part in parts.items():
        kinds = rng.integers(0, 3, len(part)).astype(float)
        kinds[::7] = np.nan
        found[split] = replace(part, labels={**part.labels, "kind": kinds})
    return found


@pytest.mark.parametrize("seen", [(0, 1, 2), (0, 2)])
def test_an_untrained_head_is_the_linear_probe(parts: dict[str, Examples], seen: tuple[int, ...]) -> None:
    """At a rate of nothing fine-tuning gives a probe's scores: yes or no, three classes, and the two of them left."""
    encoder = opened()(Size(), 0.0).eval()
    both = {}
    for split, part in three_kinds(parts).items():
        kinds = part.labels["kind"]
        labels = {**part.labels, "kind": np.where(np.isin(kinds, seen) | (split == "test"), kinds, np.nan)}
        both[split] = replace(part, labels=labels, features=embed(encoder, part.images, CPU, view=centre_view))
    own = FinetuneSettings(lr=0.0, drop_path=0.0, fit=FitSettings(epochs=1, batch=32))
    task = Task(name="t", dataset="t")
    tuned, probed = (
        run_trial(both, Trial(task=task, protocol=protocol), EvaluationSettings(finetune=own), opened(), CPU)
        for protocol in ("finetune", "linear")
    )
    columns = ("label", "image_id", "score")
    tuned_rows, probed_rows = (done.scores.select(columns).to_pylist() for done in (tuned, probed))
    assert [row["image_id"] for row in tuned_rows] == [row["image_id"] for row in probed_rows]
    assert {row["label"] for row in tuned_rows} == {"disc", *(f"kind={kind}" for kind in seen)}
    scores = [np.array([row["score"] for row in rows]) for rows in (tuned_rows, probed_rows)]
    assert np.abs(scores[0] - scores[1]).max() < 1e-4


@pytest.mark.parametrize(("decoder", "least"), [("light", 0.8), ("linear", 0.4)])
def test_segmentation_finds_the_discs(parts: dict[str, Examples], decoder: str, least: float) -> None:
    own = SegmentSettings(
        decoder=decoder,  # type: ignore[arg-type]
        lr=2e-3,
        drop_path=0.0,
        augment=AugmentSettings(crop_scale=(0.8, 1.0)),
        fit=FitSettings(epochs=6, batch=16),
    )
    trial = Trial(task=Task(name="t", dataset="t"), protocol="segment")
    done = run_trial(parts, trial, EvaluationSettings(segment=own), opened(), CPU)
    found = measured(done)
    assert found["dice_positive"] > least
    assert found["hd95"] < (15 if decoder == "light" else 40)
    assert done.scores.num_rows == 54, "a mask that is not known is not scored"


def test_of_many_images_the_head_starts_at_a_few(parts: dict[str, Examples], monkeypatch: pytest.MonkeyPatch) -> None:
    """And at 0 for a label that these few do not tell."""
    monkeypatch.setattr(head_module, "MOST", 40)
    train, val = parts["train"], parts["val"]
    truth_NC, val_truth_VC = (np.stack([part.labels["disc"], np.zeros(len(part))], axis=1) for part in (train, val))
    truth_NC[0, 1] = 1.0  # seed 0 does not draw it
    outputs = [[Output("disc", "disc", 1.0)], [Output("rare", "rare", 1.0)]]
    problem = Problem(outputs, train, truth_NC, val, val_truth_VC, parts["test"])
    backbone = opened()(Size(), 0.0)
    weight_CD, bias_C = probe_head(backbone, problem, 0, CPU)
    assert np.abs(weight_CD[0]).max() > 0
    assert np.abs(weight_CD[1]).max() == bias_C[1] == 0
    monkeypatch.setattr(head_module, "MOST", 160)
    assert np.abs(probe_head(backbone, problem, 0, CPU)[0][1]).max() > 0


def test_batch_norms_of_a_foreign_network_keep_their_statistics() -> None:
    norm = torch.nn.BatchNorm2d(1)
    model = Classifier(Backbone(torch.nn.Sequential(norm), SIDE, 4), 1).train()
    norm(torch.randn(8, 1, 4, 4) + 5)
    assert norm.running_mean is not None
    assert norm.running_mean.item() == 0
    assert model.head.training


def test_the_loss_leaves_unknown_masks_out() -> None:
    logits = torch.randn(3, 2, 8, 8, requires_grad=True)
    truth = (torch.rand(3, 2, 8, 8) > 0.5).float()
    truth[1, 0] = torch.nan
    dice_and_bce(logits, truth).backward()
    assert logits.grad is not None
    assert logits.grad[1, 0].abs().sum() == 0
    assert logits.grad[1, 1].abs().sum() > 0
    truth[:] = torch.nan
    assert dice_and_bce(logits, truth).item() == 0


def test_views_and_masks_are_cut_alike_and_depend_on_seed_epoch_and_image() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 30:50] = 1
    data, png = encode_grey_jpeg(mask * 200, 100), encode_mask(mask > 0)
    keys = np.array([5, 9])
    settings = AugmentSettings(jitter=0.0)
    views = training_views([data, data], keys, 3, 48, settings, 1)
    masks = training_masks([[png, None], [png, None]], keys, 3, 48, settings, 1)
    assert np.abs((views[0] > 100).astype(float) - masks[0, 0]).mean() < 0.02
    assert np.isnan(masks[:, 1]).all()
    assert not np.array_equal(views[0], views[1])
    assert np.array_equal(views, training_views([data, data], keys, 3, 48, settings, 1))
    assert not np.array_equal(views, training_views([data, data], keys, 4, 48, settings, 1))
    assert centre_view(data, 48).shape == whole_mask(png, 48).shape == (48, 48)
    assert not np.array_equal(views, training_views([data, data], keys, 3, 48, replace(settings, jitter=0.4), 1))
