"""The plan's promises, for any row groups, workers, global batch and stopping point."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexworld_ray.config import Science
from chexworld_ray.errors import UserError
from chexworld_ray.shards import plan as plans
from chexworld_ray.shards import reader
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import Plan, RowGroup, make_plan, segment_end, share_size
from chexworld_ray.shards.reader import PADDING_POSITION, expected_positions, read_window
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source, pack
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.storage import place

groups = st.lists(st.integers(1, 9), min_size=1, max_size=14)


def make(sizes: list[int], seed: int = 0) -> Plan:
    return Plan(tuple(RowGroup("file", index, rows) for index, rows in enumerate(sizes)), seed, 8_000)


@given(groups, st.integers(0, 2**40), st.integers(0, 3))
def test_every_row_once_an_epoch(sizes: list[int], seed: int, epoch: int) -> None:
    plan = make(sizes, seed)
    rows = plan.locate(epoch * plan.rows, (epoch + 1) * plan.rows)
    assert sorted(rows) == [(group, row) for group, size in enumerate(sizes) for row in range(size)]


@given(groups, st.data())
def test_any_stretch_is_a_slice_of_the_sequence(sizes: list[int], data: st.DataObject) -> None:
    plan = make(sizes)
    whole = plan.locate(0, 3 * plan.rows)
    start = data.draw(st.integers(0, 3 * plan.rows - 1))
    stop = data.draw(st.integers(start + 1, 3 * plan.rows))
    assert plan.locate(start, stop) == whole[start:stop]


def test_epochs_and_seeds_differ() -> None:
    plan = make([8] * 20)
    assert plan.locate(0, 160) != plan.locate(160, 320)
    assert plan.locate(0, 160) != make([8] * 20, seed=1).locate(0, 160)


def test_rows_of_several_groups_are_mixed() -> None:
    first = make([32] * 16).locate(0, 32)
    assert len({group for group, _ in first}) == plans.WINDOW_GROUPS


@dataclass
class Ingested:
    """Stands in for the Parquet files: row group g holds image ids 'g:row'."""

    sizes: list[int]

    def __call__(self, _url: str, index: int, _columns: tuple[str, ...]) -> pa.Table:
        ids = [f"{index}:{row}" for row in range(self.sizes[index])]
        return pa.table({"image_id": ids, "image": [text.encode() for text in ids]})


def stream(plan: Plan, start: int, stop: int, global_batch: int, workers: int) -> list[list[pa.Table]]:
    """What Ray Data does to windows: concatenate in order, cut into shares, deal them round."""
    share = share_size(global_batch, workers)
    padding = share * workers - global_batch
    table = pa.concat_tables(
        read_window(plan, window, start, stop, global_batch, padding) for window in plan.windows(start, stop)
    )
    blocks = [table.slice(first, share) for first in range(0, table.num_rows, share)]
    return [blocks[rank::workers] for rank in range(workers)]


@given(groups, st.integers(1, 11), st.integers(1, 5), st.integers(1, 6), st.integers(0, 5))
def test_workers_get_exactly_their_shares(
    sizes: list[int], global_batch: int, workers: int, batches: int, first_batch: int
) -> None:
    plan = make(sizes)
    start, stop = first_batch * global_batch, (first_batch + batches) * global_batch
    with patch.object(reader, "read_row_group", Ingested(sizes)):
        ranks = stream(plan, start, stop, global_batch, workers)
    seen: dict[int, str] = {}
    for rank, blocks in enumerate(ranks):
        assert len(blocks) == batches
        for step, block in enumerate(blocks):
            positions = block["position"].to_numpy()
            assert np.array_equal(positions, expected_positions(start, global_batch, workers, rank, step))
            for position, image_id, image in zip(*block.to_pydict().values(), strict=True):
                if position == PADDING_POSITION:
                    assert not image
                else:
                    assert image == image_id.encode()
                    seen[position] = image_id
    due = plan.locate(start, stop)
    assert [seen[position] for position in range(start, stop)] == [f"{group}:{row}" for group, row in due]


@given(groups, st.integers(1, 7), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 60))
def test_kills_and_resizes_lose_and_repeat_nothing(
    sizes: list[int], global_batch: int, worker_counts: list[int], segment: int
) -> None:
    """A run cut anywhere on a global-batch border, going on with another number of workers."""
    plan = make(sizes)
    total = Science(global_batch=global_batch, epochs=2.5).total_batches(plan.rows) * global_batch
    assert total >= 2.5 * plan.rows > total - global_batch
    position, positions = 0, []
    for number, workers in enumerate(worker_counts):
        last = number == len(worker_counts) - 1
        stop = total if last else min(total, position + (number + 1) * 3 * global_batch)
        while position < stop:
            end = min(stop, segment_end(position, total, global_batch, segment))
            assert end > position
            assert end % global_batch == 0
            for step in range((end - position) // global_batch):
                for rank in range(workers):
                    mine = expected_positions(position, global_batch, workers, rank, step)
                    positions += mine[mine != PADDING_POSITION].tolist()
            position = end
    assert positions == list(range(total))


def test_no_test_image_and_no_lateral_view_is_read(
    phantom_folder: Path, tmp_path: Path, write_set: Callable[[Source, Path, WriteSettings], Manifest]
) -> None:
    """Every row that the plan can reach, looked at in the files themselves."""
    source = read_source(str(phantom_folder), labels="labels.csv")
    splits, views = ("train", "val", "test", "train"), ("AP", "LATERAL", None, "PA")
    rows = [
        replace(row, patient_id=row.image_id, split=splits[number % 4], view=views[number // 4 % 4])
        for number, row in enumerate(source)
    ]
    manifest = write_set(
        replace(source, packed=[pack(row) for row in rows]), tmp_path, WriteSettings(row_group_images=8)
    )
    plan = make_plan([manifest], Science().splits, Science().projections, 0)
    reached = [
        reader.read_row_group(plan.groups[group].url, plan.groups[group].index, ("split", "view")).slice(row, 1)
        for group, row in plan.locate(0, plan.rows)
    ]
    kinds = {(table["split"][0].as_py(), table["view"][0].as_py()) for table in reached}
    assert kinds == {("train", "frontal AP"), ("train", "frontal PA"), ("train", "unknown")}
    assert len(reached) == sum(row.split == "train" and row.view != "LATERAL" for row in rows)
    lateral = make_plan([manifest], ("val",), ("lateral",), 0)
    assert lateral.rows == sum(row.split == "val" and row.view == "LATERAL" for row in rows)
    with pytest.raises(UserError, match="no images with splits holdout"):
        make_plan([manifest], ("holdout",), ("frontal",), 0)


def test_several_data_sets_make_one_plan(phantom_set: Manifest) -> None:
    one = make_plan([phantom_set], ("train",), ("frontal",), 0)
    both = make_plan([phantom_set, replace(phantom_set, root=place("/elsewhere"))], ("train",), ("frontal",), 0)
    assert both.rows == 2 * one.rows
    assert len({both.groups[group].url for group, _ in both.locate(0, both.rows)}) == 2 * len(
        {g.url for g in one.groups}
    )


def test_plan_does_not_depend_on_threads_or_calls() -> None:
    plan = make([5] * 30)
    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(lambda _: plan.locate(40, 300), range(8)))
    assert all(one == several[0] for one in several)
