"""Whatever happens: each image once, the right one, in order; recounted from what the workers wrote down."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cluster import chexworld

from chexworld_ray.benchmarks.chaos import KINDS, STAGING, count, due_images
from chexworld_ray.config import RunSettings
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import make_plan


def chaos(out: Path, kinds: tuple[str, ...], faults: int, *words: str) -> None:
    """So many faults, each of `kinds` once and then again; what was seen is recounted."""
    asked = ["--seed", "3", "--faults", str(faults), "--kinds", ",".join(kinds), "--out", str(out), *words]
    done = chexworld("benchmark", "chaos", *asked, "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["lost"], result["repeated"], result["misplaced"]) == (0, 0, 0)
    struck = {fault["kind"] for fault in result["faults"]}
    assert struck == set(kinds) or (struck == set(kinds) - {STAGING} and "no disk can be mounted" in done.stderr)
    assert len(result["recovery_s"]) == faults
    seen = pq.read_table(out / "seen.parquet")
    assert sorted(seen["position"].to_pylist()) == list(range(result["images"])), "anyone can recount"
    assert seen.column_names == ["attempt", "rank", "position", "image_id"]


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_storage_that_hangs_loses_and_repeats_no_image(tmp_path: Path) -> None:
    """Saving and reading at a store that fails are tested without a cluster, too (`test_saving`, `test_patience`)."""
    chaos(tmp_path, ("storage hangs",), 1, "--hang-seconds", "15")


@pytest.mark.nightly
@pytest.mark.timeout(2400)
def test_ten_faults_of_every_kind_lose_and_repeat_no_image(tmp_path: Path) -> None:
    chaos(tmp_path, KINDS, 10)
    assert "Workers, images/s and loss over time" in (tmp_path / "report.html").read_text()


def test_what_is_lost_repeated_or_misplaced_is_counted(phantom_set: Manifest, tiny: RunSettings) -> None:
    science = tiny.science
    plan = make_plan([phantom_set], science.splits, science.projections, science.seed)
    due = due_images(plan, 20)
    positions = [*range(5), 4, *range(6, 20)]  # 5 is lost, 4 is seen twice
    names = [due[at] for at in positions]
    names[0] = due[1]
    table = pa.table({"position": positions, "image_id": names})
    assert count(plan, table, 20) == {"lost": 1, "repeated": 1, "misplaced": 1}
