"""Whatever happens: each image once, the right one, in order; recounted from what the workers wrote down."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cluster import chexworld

from chexworld_ray.benchmarks.chaos import count, due_images
from chexworld_ray.config import RunSettings
from chexworld_ray.runtime.pretrain import pretrain
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import make_plan
from chexworld_ray.training import run
from chexworld_ray.training.seen import lineage


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped_and_each_image_is_seen_once(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path
) -> None:
    runtime = dataclasses.replace(
        tiny.runtime, workers="2", record_seen=True, max_skipped_in_row=10_000, checkpoint_images=50, probe_images=0
    )
    science = dataclasses.replace(tiny.science, optim=dataclasses.replace(tiny.science.optim, lr=1e30, warmup=0.0))
    record = pretrain(RunSettings(science=science, runtime=runtime), [phantom_set.root.url], str(tmp_path), "nan")
    last = run.checkpoints(record.root)[-1]
    state = json.loads((Path(last.root.path) / "state.json").read_text())
    assert state["skipped_steps"] >= 20, "the learning rate was meant to spoil the weights"
    seen = lineage(record.root, state["attempt"], last.position)
    plan = make_plan([phantom_set], science.splits, science.projections, science.seed)
    assert count(plan, seen, last.position) == {"lost": 0, "repeated": 0, "misplaced": 0}
    assert set(seen["rank"].to_pylist()) == {0, 1}
    assert len(set(due_images(plan, plan.rows))) == plan.rows


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_losses_of_machine_head_storage_and_disk_lose_and_repeat_no_image(tmp_path: Path) -> None:
    """Those that have no test of their own; a worker, a driver, a notice, a 503 and torn checkpoints have."""
    kinds = ["machine killed", "head restarted", "storage hangs", "staging disk full"]
    words = ["--seed", "3", "--faults", "4", "--kinds", ",".join(kinds), "--out", str(tmp_path)]
    done = chexworld("benchmark", "chaos", *words, "--json", env={"RAY_AUTH_MODE": "disabled"})
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["lost"], result["repeated"], result["misplaced"]) == (0, 0, 0)
    struck = {fault["kind"] for fault in result["faults"]}
    assert struck == set(kinds) or (struck == set(kinds[:-1]) and "no disk can be mounted" in done.stderr)
    assert len(result["recovery_s"]) == 4
    seen = pq.read_table(tmp_path / "seen.parquet")
    assert sorted(seen["position"].to_pylist()) == list(range(result["images"])), "anyone can recount"
    assert "Workers, images/s and loss over time" in (tmp_path / "report.html").read_text()
    assert seen.column_names == ["attempt", "rank", "position", "image_id"]


def test_what_is_lost_repeated_or_misplaced_is_counted(phantom_set: Manifest, tiny: RunSettings) -> None:
    science = tiny.science
    plan = make_plan([phantom_set], science.splits, science.projections, science.seed)
    due = due_images(plan, 20)
    positions = [*range(5), 4, *range(6, 20)]  # 5 is lost, 4 is seen twice
    names = [due[at] for at in positions]
    names[0] = due[1]
    table = pa.table({"position": positions, "image_id": names})
    assert count(plan, table, 20) == {"lost": 1, "repeated": 1, "misplaced": 1}
