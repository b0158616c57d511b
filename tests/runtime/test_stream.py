"""The real stream through Ray Data: order, workers that do not divide the batch, segments across epochs."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.board import Board
from chexworld_ray.runtime.stream import StreamSettings, _raise_told, cropped_shares, read_shares
from chexworld_ray.runtime.stream_benchmark import benchmark_stream
from chexworld_ray.shards.manifest import Manifest, load
from chexworld_ray.shards.plan import Plan, make_plan
from chexworld_ray.storage import StorageError


@ray.remote(num_cpus=0)
def consume(settings: StreamSettings, position: int, board: Any) -> list[tuple[int, str]]:
    rows: list[tuple[int, str]] = []
    for block in read_shares(settings, position, board):
        rows += list(zip(block["position"].to_pylist(), block["image_id"].to_pylist(), strict=True))
    return rows


def image_ids(plan: Plan, start: int, stop: int) -> list[str]:
    from chexworld_ray.shards.reader import read_row_group

    tables = [read_row_group(group.url, group.index, ("image_id",)) for group in plan.groups]
    return [tables[group]["image_id"][row].as_py() for group, row in plan.locate(start, stop)]


@pytest.mark.parametrize(
    ("workers", "global_batch", "start_batch"),
    [
        pytest.param(1, 10, 0, marks=pytest.mark.slow),
        pytest.param(2, 10, 3, marks=pytest.mark.slow),
        (3, 10, 2),
        pytest.param(4, 6, 1, marks=pytest.mark.slow),
    ],
)
def test_every_worker_gets_its_rows_in_order(
    ray_here: None,
    phantom_set: Manifest,
    tiny: RunSettings,
    workers: int,
    global_batch: int,
    start_batch: int,
) -> None:
    from dataclasses import replace

    science = replace(tiny.science, global_batch=global_batch)
    plan = make_plan([phantom_set], ("train",), ("frontal",), 0)
    start, total = start_batch * global_batch, (start_batch + 2 * plan.rows // global_batch) * global_batch
    board = Board.remote()
    runs = [
        consume.remote(StreamSettings(plan, science, total, 5 * global_batch, 2, workers, rank, "try"), start, board)
        for rank in range(workers)
    ]
    rows = [row for rank in ray.get(runs) for row in rank if row[0] >= 0]
    assert len(rows) == total - start
    found = dict(rows)
    assert [found[position] for position in range(start, total)] == image_ids(plan, start, total)


def test_an_order_that_is_wrong_stops_training(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Ray Data ever deals blocks otherwise, not one row is trained on."""
    from chexworld_ray.runtime import stream

    plan = make_plan([phantom_set], ("train",), ("frontal",), 0)
    honest = stream._blocks

    def swapped(iterator: Any) -> Any:
        blocks = list(honest(iterator))
        return iter([blocks[1], blocks[0], *blocks[2:]])

    monkeypatch.setattr(stream, "_blocks", swapped)
    settings = StreamSettings(plan, tiny.science, 60, 1000, 2, 1, 0, "swapped")
    with pytest.raises(RuntimeError, match="out of order"):
        next(cropped_shares(settings, 0, Board.remote()))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_shard_that_can_not_be_read_is_told_to_the_worker_whose_rows_it_has(
    ray_here: None, phantom_set: Manifest, tiny: RunSettings, tmp_path: Path, workers: int
) -> None:
    """In the words of the task that read it; a storage that is away is told apart, for it may come back."""
    folder = tmp_path / "data"
    shutil.copytree(phantom_set.root.path, folder)
    plan = make_plan([load(str(folder))], ("train",), ("frontal",), 0)
    bad = Path(plan.groups[-1].url)
    bad.write_bytes(bad.read_bytes()[:1000])
    board = Board.remote()
    runs = [
        consume.remote(
            StreamSettings(plan, tiny.science, plan.rows // 10 * 10, 1000, 2, workers, rank, "try"), 0, board
        )
        for rank in range(workers)
    ]
    for run in runs:
        with pytest.raises(UserError, match=f"{bad.name}: not a whole Parquet file"):
            ray.get(run)


def test_what_tasks_tell_of_a_storage_is_an_error_of_the_storage() -> None:
    rows = {"told": ["", "s3://away: the store can't be reached"], "away": [False, True]}
    with pytest.raises(StorageError, match="can't be reached"):
        _raise_told(pa.table(rows))
    _raise_told(pa.table({"told": [""], "away": [False]}))


def test_crops_arrive_with_their_positions(ray_here: None, phantom_set: Manifest, tiny: RunSettings) -> None:
    plan = make_plan([phantom_set], ("train",), ("frontal",), 0)
    settings = StreamSettings(plan, tiny.science, 40, 1000, 2, 1, 0, "crops")
    shares = list(cropped_shares(settings, 10, Board.remote()))
    assert [share.positions_B.tolist() for share in shares] == [list(range(at, at + 10)) for at in (10, 20, 30)]
    assert shares[0].crops_BVHW.shape == (10, 2, 48, 48)
    assert shares[0].crops_BVHW.std() > 10


@pytest.mark.slow
def test_stream_benchmark_counts_what_came(ray_here: None, phantom_set: Manifest, tiny: RunSettings) -> None:
    result = benchmark_stream([phantom_set.root.url], tiny, 120, 4)
    assert result["images"] == 120
    assert result["stream_over_plain_loop"] == pytest.approx(
        result["stream_images_per_second"] / result["plain_loop_images_per_second"], abs=1e-3
    )
    assert 0.0 <= result["wait_fraction"] <= 1.0
    with pytest.raises(UserError, match="at least"):
        benchmark_stream([phantom_set.root.url], tiny, 10, 4)
