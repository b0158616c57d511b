"""`chexworld benchmark`: one JSON object, with numbers that mean what they say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chexworld_ray.benchmarks.compare import ratios
from chexworld_ray.benchmarks.step import SIZES, StepCase, case_of, make_case_batch, step_flops
from chexworld_ray.cli import main
from chexworld_ray.config import MaskSettings, Runtime

STEP = ["benchmark", "step", "--model", "test_vit", "--image-size", "64", "--batch", "2", "--repeats", "1"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_masks_are_unbiased_where_the_published_rule_is_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "masks.png"
    result = run(capsys, "benchmark", "masks", "--images", "4000", "--picture", str(picture))
    rows, published = result["target_row_probability"], result["published_target_row_probability"]
    assert len(rows) == len(published) == len(result["context_row_probability"]) == 14
    assert result["weakest_row_over_centre"] >= 0.23
    assert max(abs(a - b) for a, b in zip(rows, reversed(rows), strict=True)) <= 0.02
    measured = [0.17, 0.32, 0.44, 0.53, 0.60, 0.60, 0.51, 0.38, 0.24, 0.12, 0.05, 0.01, 0.0, 0.0]  # published code
    assert np.allclose(published, measured, atol=0.08)
    tokens = result["tokens"]
    assert tokens["context_used"] + tokens["context_wasted"] == pytest.approx(71, abs=0.02)
    assert tokens["target_used"] + tokens["target_wasted"] == pytest.approx(90, abs=0.02)
    assert 0.7 < result["crop_overlap"]["mean"] < 0.85
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_step_tells_its_parts_and_compares(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = run(capsys, *STEP, "--memory-steps", "3")
    parts = first["parts_seconds"]
    assert set(parts) == {"target", "encoder", "predictor", "forward", "backward", "optimizer", "ema"}
    assert parts["target"] + parts["encoder"] + parts["predictor"] <= 1.01 * parts["forward"]
    assert first["images_per_second"] == pytest.approx(2 / first["seconds"], rel=0.01)
    assert first["gflop_per_second"] == pytest.approx(2 * first["gflop_per_image"] / first["seconds"], rel=0.02)
    assert first["recompilations"] == 0
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(first | {"seconds": 2 * first["seconds"]}))
    second = run(capsys, *STEP, "--compare", str(earlier))
    assert second["over_earlier"]["gflop_per_image"] == 1.0
    assert second["over_earlier"]["seconds"] == pytest.approx(second["seconds"] / first["seconds"] / 2, rel=0.01)
    assert main([*STEP, "--compare", str(tmp_path / "none.json")]) == 2


def test_flops_are_those_of_the_matrices() -> None:
    """The target alone, by hand: 2·(12·D² + 2·N·D) multiply-adds a token and block, and its patches."""
    science = case_of("vit_tiny", MaskSettings(context_tokens=1, target_tokens=1), "fp32", 64, 16)
    case = StepCase(science=science, runtime=Runtime(), batch=1, repeats=1)
    _, batch = make_case_batch(case, torch.device("cpu"))
    width, depth, tokens = 192, SIZES["vit_tiny"].depth, 16
    target = 2 * 2 * depth * tokens * (12 * width**2 + 2 * tokens * width)
    assert 1.0 < step_flops(science, batch, torch.device("cpu")) / target < 2.2


def test_views_of_phantoms_and_of_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(capsys, "benchmark", "views", "--size", "128", "--images", "4", "--image-size", "64")
    assert result["image"] == [128, 128]
    assert result["ours_over_calibrator"] == pytest.approx(
        result["decode_and_crops_ms"] / result["calibrator_ms"], rel=0.01
    )
    assert main(["benchmark", "views", "--folder", str(tmp_path)]) == 2
    assert "no JPEG" in capsys.readouterr().err


def test_ratios_leave_out_what_can_not_be_compared() -> None:
    now = {"a": 2, "b": True, "c": "x", "d": {"e": 3.0, "f": 1}, "g": 1}
    assert ratios(now, {"a": 4, "b": True, "c": "y", "d": {"e": 1.5}, "g": 0}) == {"a": 0.5, "d": {"e": 2.0}}
