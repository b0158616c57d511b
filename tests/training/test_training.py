"""The step, its schedules and its checkpoints."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from states import trained
from straight import shares

from chexworld_ray import load_encoder
from chexworld_ray.config import ModelSettings, OptimSettings, RunSettings, Runtime, Science, to_dict
from chexworld_ray.errors import UserError
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import make_plan
from chexworld_ray.storage import place, read_json, write_json
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.checkpoint_files import MANIFEST, damage, folder_name
from chexworld_ray.training.ema import update_target
from chexworld_ray.training.log import RunLog, read_metrics
from chexworld_ray.training.loop import Callbacks, train
from chexworld_ray.training.schedules import ema_momentum, learning_rate, target_memory
from chexworld_ray.training.state import TrainState, start_state
from chexworld_ray.training.step import train_step
from chexworld_ray.views.batch import CropBatch, make_batch, micro_batches

MODEL = ModelSettings(image_size=48, patch_size=12, width=32, depth=2, heads=2, predictor_width=16, predictor_depth=1)
SCIENCE = Science(
    model=MODEL,
    optim=OptimSettings(lr=1e-3, warmup=0.2, ema=(0.9, 1.0)),
    global_batch=10,
    epochs=1.5,
    precision="fp32",
)
PIXELS = (0.5, 0.25)
CPU = torch.device("cpu")


def total_images(manifest: Manifest) -> int:
    rows = make_plan([manifest], ("train",), ("frontal",), 0).rows
    return SCIENCE.total_batches(rows) * SCIENCE.global_batch


def batches(share: CropBatch, most: int = 64) -> list[Any]:
    return [make_batch(part, SCIENCE, *PIXELS, CPU) for part in micro_batches(share, most)]


def weights(state: TrainState) -> list[torch.Tensor]:
    return [*state.model.state_dict().values(), *state.target.state_dict().values()]


def run_to(state: TrainState, manifest: Manifest, stop: int) -> None:
    for share in shares(manifest, SCIENCE, state.position, stop):
        train_step(state, batches(share), SCIENCE, 1)


def test_schedules_start_and_end_where_they_should() -> None:
    optim = OptimSettings(lr=1.0, final_lr=0.1, warmup=0.25, ema=(0.9, 1.0))
    assert learning_rate(optim, 0, 1000) == 0
    assert learning_rate(optim, 250, 1000) == pytest.approx(1.0)
    assert learning_rate(optim, 1000, 1000) == pytest.approx(0.1)
    assert ema_momentum(optim, 0, 1000) == pytest.approx(0.9)
    assert ema_momentum(optim, 1000, 1000) == pytest.approx(1.0)
    rates = [learning_rate(optim, seen, 1000) for seen in range(250, 1001, 50)]
    assert rates == sorted(rates, reverse=True)


def test_ema_is_the_closed_form() -> None:
    target, encoder = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    start, goal = target.weight.detach().clone(), encoder.weight.detach()
    for _ in range(5):
        update_target(target, encoder, 0.8)
    assert torch.allclose(target.weight, 0.8**5 * start + (1 - 0.8**5) * goal, atol=1e-6)


def test_accumulation_changes_nothing_but_rounding(phantom_set: Manifest) -> None:
    whole, cut = (start_state(SCIENCE, 100, CPU) for _ in range(2))
    share = next(shares(phantom_set, SCIENCE, 0, 10))
    a = train_step(whole, batches(share), SCIENCE, 1)
    b = train_step(cut, batches(share, 3), SCIENCE, 1)  # 10 rows in 4 cuts: 2 rows of padding
    assert b.sums[3] == 10
    assert torch.allclose(a.sums, b.sums, rtol=1e-5)
    assert torch.allclose(a.grad_norm, b.grad_norm, rtol=1e-4)


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_gradient_of_several_workers_is_that_of_one(phantom_set: Manifest, workers: int) -> None:
    """DistributedDataParallel averages; 10 images over 3 or 4 workers need padding rows."""

    def gradient(count: int, rank: int) -> torch.Tensor:
        state = start_state(SCIENCE, 100, CPU)
        (share,) = shares(phantom_set, SCIENCE, 0, 10, count, rank)
        clip = dataclasses.replace(SCIENCE, optim=dataclasses.replace(SCIENCE.optim, clip=1e9))
        train_step(state, batches(share), clip, count)
        return torch.cat([p.grad.flatten() for p in state.model.parameters() if p.grad is not None])

    mean = torch.stack([gradient(workers, rank) for rank in range(workers)]).mean(dim=0)
    assert torch.allclose(mean, gradient(1, 0), rtol=1e-3, atol=1e-6)


def test_resume_at_any_step_is_bit_exact(phantom_set: Manifest, tmp_path: Path) -> None:
    total = total_images(phantom_set)
    straight = start_state(SCIENCE, total, CPU)
    run_to(straight, phantom_set, total)
    for stop in (10, total // 2 // 10 * 10, total - 10):
        first = start_state(SCIENCE, total, CPU)
        run_to(first, phantom_set, stop)
        folder = tmp_path / str(stop)
        folder.mkdir()
        checkpoint.write(checkpoint.snapshot(first, MODEL, PIXELS, {"plan": "p"}), place(str(folder)))
        second = start_state(dataclasses.replace(SCIENCE, seed=9), total, CPU)  # other weights, all replaced
        assert checkpoint.load(second, folder)["plan"] == "p"
        run_to(second, phantom_set, total)
        assert second.position == straight.position
        assert all(torch.equal(a, b) for a, b in zip(weights(straight), weights(second), strict=True))


def test_training_lowers_the_loss_and_calls_back(phantom_set: Manifest) -> None:
    science = dataclasses.replace(SCIENCE, epochs=6)
    total = science.total_batches(make_plan([phantom_set], ("train",), ("frontal",), 0).rows) * 10
    state = start_state(science, total, CPU)
    records: list[dict[str, Any]] = []
    saved: list[int] = []
    noticed: list[int] = []
    looks = iter([False, True, *[False] * 20])

    def save(state: TrainState, *, urgent: bool) -> None:
        (noticed if urgent else saved).append(state.position)

    train(
        state,
        shares(phantom_set, science, 0, total),
        science,
        Runtime(log_batches=3, checkpoint_images=100, notice_batches=4),
        PIXELS,
        1,
        Callbacks(records.append, save, lambda: next(looks)),
    )
    assert noticed == [80], "the second look found a notice: a checkpoint at once"
    assert records[-1]["images_seen"] == total == saved[-1]
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    assert records[-1]["lr"] == pytest.approx(science.optim.final_lr)
    assert len(saved) == -(-total // 100) or len(saved) == total // 100 + 1
    assert all(np.isfinite(value) for record in records for value in record.values())
    memory = [target_memory(science.optim, record["images_seen"], total, 10) for record in records]
    assert [record["target_memory"] for record in records] == memory


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(phantom_set: Manifest) -> None:
    state = start_state(SCIENCE, 100, CPU)
    share = next(shares(phantom_set, SCIENCE, 0, 10))
    good = batches(share)
    train_step(state, good, SCIENCE, 1)
    before = [value.clone() for value in state.model.state_dict().values()]
    bad = [dataclasses.replace(good[0], seen_BVHW=good[0].seen_BVHW * float("nan"))]
    train_step(state, bad, SCIENCE, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.state_dict().values(), strict=True))
    assert state.skipped == 1
    train_step(state, good, SCIENCE, 1)
    assert state.skipped == 1
    assert not all(torch.equal(a, b) for a, b in zip(before, state.model.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("missing", "predictor.safetensors is missing"),
        ("short", "predictor.safetensors has"),
        ("changed", "predictor.safetensors differs"),
        ("no manifest", "no readable MANIFEST.json"),
    ],
)
def test_a_damaged_checkpoint_is_noticed(tmp_path: Path, harm: str, told: str) -> None:
    state = start_state(SCIENCE, 100, CPU)
    checkpoint.write(checkpoint.snapshot(state, MODEL, PIXELS, {}), place(str(tmp_path)))
    assert damage(tmp_path) is None
    file = tmp_path / "predictor.safetensors"
    if harm == "missing":
        file.unlink()
    elif harm == "short":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "changed":
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    else:
        (tmp_path / MANIFEST).unlink()
    found = damage(tmp_path)
    assert found is not None
    assert found.startswith(told)


def test_a_folder_in_the_place_of_a_checkpoints_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{}")
    (tmp_path / "encoder.safetensors").mkdir()
    stored = run.StoredCheckpoint(place(str(tmp_path)), 100)
    with pytest.raises(UserError, match=r"encoder\.safetensors: can't be read"), run.local_copy(stored):
        pass


def rewritten(folder: Path, harm: str) -> None:
    """A whole checkpoint by its hashes, whose maker meant no good."""
    file = folder / ("optimizer.pt" if harm in ("moments", "groups", "torch", "nothing") else "predictor.safetensors")
    if harm == "other model":
        file.write_bytes(save({"weight": torch.zeros(3)}))
    elif file.suffix == ".safetensors" or harm == "torch":
        file.write_bytes(b"\xff" * 100)
    else:
        record = torch.load(file, weights_only=True)
        if harm == "moments":
            record["state"][0]["exp_avg"] = torch.zeros(7)
        torch.save({} if harm == "nothing" else record | ({"param_groups": []} if harm == "groups" else {}), file)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("safetensors", "predictor.safetensors of the checkpoint: not a whole safetensors file"),
        ("other model", "predictor.safetensors: the checkpoint's tensors do not fit this run's model"),
        ("torch", "optimizer.pt of the checkpoint: refused"),
        ("moments", "optimizer.pt: the checkpoint's tensors do not fit"),
        ("groups", "optimizer.pt: the checkpoint's tensors do not fit"),
        ("nothing", "optimizer.pt: the checkpoint's tensors do not fit"),
    ],
)
def test_a_checkpoint_of_a_stranger_that_does_not_fit_is_one_line(tmp_path: Path, harm: str, told: str) -> None:
    """An error of any other kind would start the run again and again."""
    state = trained(SCIENCE, 100, 10)
    checkpoint.write(checkpoint.snapshot(state, MODEL, PIXELS, {"plan": "p"}), place(str(tmp_path)))
    checkpoint.load(start_state(SCIENCE, 100, CPU), tmp_path)
    rewritten(tmp_path, harm)
    with pytest.raises(UserError, match=told):
        checkpoint.load(start_state(SCIENCE, 100, CPU), tmp_path)


def test_of_a_checkpoint_without_its_last_file_nothing_is_read(tmp_path: Path) -> None:
    (tmp_path / "optimizer.pt").write_bytes(b"large, and half of it")
    with run.local_copy(run.StoredCheckpoint(place(str(tmp_path)), 100)) as (folder, reason):
        assert reason == "no readable MANIFEST.json"
        assert not list(folder.iterdir())


@pytest.mark.parametrize("url", ["{tmp}/run", "memory://log-{tmp}"])
def test_log_goes_on_after_a_resume(tmp_path: Path, url: str) -> None:
    root = place(url.format(tmp=tmp_path))
    for position, steps in ((0, (10, 20, 30)), (20, (30, 40))):
        with RunLog(root, position, tensorboard=True) as log:
            for seen in steps:
                log.write({"images_seen": seen, "loss": 1.0, "images_per_second": float(position)})
    assert [record["images_seen"] for record in read_metrics(root)] == [10, 20, 30, 40]
    assert read_metrics(root)[2]["images_per_second"] == 20
    assert [file for file in root.fs.find(root.path) if "tfevents" in file]


def test_a_line_cut_short_keeps_no_run_from_its_start(tmp_path: Path) -> None:
    root = place(str(tmp_path))
    with RunLog(root, 0, tensorboard=False) as log:
        for seen in (10, 20):
            log.write({"images_seen": seen, "loss": 1.0, "images_per_second": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"images_seen": 30, "lo')
    with RunLog(root, 20, tensorboard=False) as log:
        log.write({"images_seen": 30, "loss": 0.5, "images_per_second": 1.0})
    assert [record["images_seen"] for record in read_metrics(root)] == [10, 20, 30]
    assert read_metrics(root)[-1]["loss"] == 0.5


def test_a_name_stands_for_its_settings(phantom_set: Manifest, tmp_path: Path) -> None:
    root = place(str(tmp_path / "run"))
    settings = RunSettings(science=SCIENCE)
    run.open_or_create(root, settings, [phantom_set], 60)
    more_workers = dataclasses.replace(settings, runtime=Runtime(workers="4"))
    assert len(run.open_or_create(root, more_workers, [phantom_set], 60).starts) == 2
    other = dataclasses.replace(settings, science=dataclasses.replace(SCIENCE, seed=5))
    with pytest.raises(UserError, match="seed: 0 -> 5"):
        run.open_or_create(root, other, [phantom_set], 60)
    moved = dataclasses.replace(phantom_set, data_version="other")
    with pytest.raises(UserError, match="data"):
        run.open_or_create(root, settings, [moved], 60)
    assert run.load(root).science == SCIENCE


def test_settings_that_were_given_as_lists_are_those_of_their_own_record(phantom_set: Manifest, tmp_path: Path) -> None:
    """As a notebook gives them; the record is read with tuples."""
    root = place(str(tmp_path / "run"))
    views = dataclasses.replace(SCIENCE.views, crop_scale=[0.3, 1.0])  # pyright: ignore[reportArgumentType]
    listed = dataclasses.replace(SCIENCE, splits=["train"], views=views)  # pyright: ignore[reportArgumentType]
    for science in (listed, SCIENCE, listed):
        run.open_or_create(root, RunSettings(science=science), [phantom_set], 60)
    other = dataclasses.replace(listed, splits=["train", "val"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="splits: "):
        run.open_or_create(root, RunSettings(science=other), [phantom_set], 60)


def test_an_encoder_is_one_line_away(phantom_set: Manifest, tmp_path: Path) -> None:
    root = place(str(tmp_path / "run"))
    run.open_or_create(root, RunSettings(science=SCIENCE), [phantom_set], 60)
    with pytest.raises(UserError, match="no whole checkpoint"):
        load_encoder(root.url)
    state = start_state(SCIENCE, 100, CPU)
    for position in (10, 20):
        state.position = position
        folder = tmp_path / "run" / folder_name(position)
        folder.mkdir()
        checkpoint.write(checkpoint.snapshot(state, MODEL, PIXELS, {}), place(str(folder)))
    (folder / "target.safetensors").unlink()  # the newest is damaged: the one before is taken
    encoder, info = load_encoder(root.url)
    assert (info.images_seen, info.mean) == (10, 0.5)
    images = torch.rand(2, 48, 48)
    assert torch.allclose(encoder(images), state.target(images), atol=1e-5)  # training uses another attention kernel


def test_a_damaged_run_record_is_one_line(tmp_path: Path) -> None:
    root = place(str(tmp_path))
    with pytest.raises(UserError, match="no run there"):
        run.load(root)
    write_json(root / run.CONFIG, {"schema_version": 1, "science": to_dict(SCIENCE) | {"extra": 1}})
    with pytest.raises(UserError, match="extra"):
        run.load(root)
    (tmp_path / run.CONFIG).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        run.load(root)
    with pytest.raises(UserError):
        read_json(root / run.CONFIG)
