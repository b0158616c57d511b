"""Sweeps: variants and seeds trained and compared, and what was done before a kill is not done again."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_cluster import chexworld, wait_until

from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.results import read_results
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.recipes import ABLATIONS, demo, variants
from chexworld_ray.reports.text import sweep_table
from chexworld_ray.runtime.sweep import sweep
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import place

SMALL = [
    *(
        "--recipe",
        "demo",
        "--model.image-size",
        "48",
        "--model.width",
        "24",
        "--model.depth",
        "1",
        "--model.heads",
        "2",
    ),
    *("--model.predictor-width", "24", "--model.predictor-depth", "1", "--global-batch", "10", "--epochs", "1"),
    *("--probe-images", "0", "--no-tensorboard"),
]


def test_variants_are_the_rows_of_table_3_and_names_are_checked() -> None:
    found = variants(["ablations"], demo())
    assert list(found) == list(ABLATIONS)
    assert {settings.science.objective.kind for settings in found.values()} == set(ABLATIONS)
    assert {settings.science.epochs for settings in found.values()} == {demo().science.epochs}
    for names, words in ((["nothing"], "neither"), (["local", "local"], "twice")):
        with pytest.raises(UserError, match=words):
            variants(names, demo())


@pytest.mark.slow
def test_two_at_a_time_end_in_a_paired_table(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    quick = replace(tiny, science=replace(tiny.science, epochs=1.0), runtime=replace(tiny.runtime, probe_images=0))
    chosen = variants(["chexworld", "local"], quick)
    rows = sweep(chosen, [phantom_set.root.url], str(tmp_path / "s"), 1, 2, EvaluationSettings(protocol="knn"))
    assert {row.encoder for row in rows} == {"chexworld", "local", "local - chexworld"}
    assert all(row.p_holm is not None for row in rows if "difference" in row.metric)
    assert sorted(map(repr, read_results(place(str(tmp_path / "s"))))) == sorted(map(repr, rows))
    assert {child.name for child in (tmp_path / "s").iterdir()} >= {f"{variant}-0" for variant in chosen}
    table = sweep_table(rows)
    assert re.search(r"local +0\.\d+ .*(undecided|better|worse)", table)
    with pytest.raises(UserError, match="two variants"):
        sweep(dict(list(chosen.items())[:1]), [phantom_set.root.url], str(tmp_path), 1, 1, EvaluationSettings())


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_killed_sweep_goes_on_where_it_was(phantom_set: Manifest, tmp_path: Path) -> None:
    words = [
        *("sweep", "chexworld", "no_action", "--data", phantom_set.root.url, "--storage", str(tmp_path), "--name", "s"),
        *("--seeds", "1", "--evaluation.protocol", "knn", *SMALL),
    ]
    first = subprocess.Popen([sys.executable, "-m", "chexworld_ray", *words], start_new_session=True)
    second = tmp_path / "s" / "no_action-0" / "config.json"
    wait_until(second.exists, "the second run")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = (tmp_path / "s" / "chexworld-0" / "metrics.jsonl").stat().st_mtime
    told = chexworld(*words).stdout
    assert (tmp_path / "s" / "chexworld-0" / "metrics.jsonl").stat().st_mtime == done
    assert "no_action" in told
    assert (tmp_path / "s" / "results.parquet").exists()
