"""What is written when, while a storage fails and training goes on. No Ray: `stand_ins.Group` is a worker's view of it.

That a store which is away is tried again until all is written, is shown in `test_patience.py`.
"""

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.train
import torch
import torch.distributed as dist
from ray.train import PreemptionInfo
from stand_ins import Group, Pauses
from states import CPU, equal, trained, values

from chexworld_ray.runtime.job import Job
from chexworld_ray.runtime.saving import Notices, Saver
from chexworld_ray.storage import place
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.checkpoint_files import damage, folder_name
from chexworld_ray.training.log import RunLog
from chexworld_ray.training.seen import FOLDER, Attempt, Seen, lineage
from chexworld_ray.training.state import TrainState, start_state

ATTEMPT = Attempt("abcdef123456", "", 0)
Start = Callable[..., Saver]


@pytest.fixture
def start(job: Job, group: Group) -> Iterator[Start]:
    """A saver of `job` on rank 0, or on another (`writes=False`)."""
    with RunLog(place(job.run_url), 0, tensorboard=False) as log:

        def saver(
            job: Job = job,
            taken: frozenset[str] = frozenset(),
            plan: object = "some",
            seen: Seen | None = None,
            writes: bool = True,
        ) -> Saver:
            return Saver(job, ATTEMPT, set(taken), {"plan": plan}, log if writes else None, seen)

        yield saver


class Obstacle:
    """A file in the place of the folder for position 60: its writer fails, and pauses until `remove`."""

    def __init__(self, folder: Path, pauses: Pauses) -> None:
        self.file, self.removed = folder / folder_name(60), threading.Event()
        self.file.touch()
        pauses.then = lambda _: self.removed.wait()

    def remove(self) -> None:
        if not self.removed.is_set():
            self.file.unlink()
            self.removed.set()


@pytest.fixture
def obstacle(job: Job, start: Start, pauses: Pauses) -> Iterator[Obstacle]:
    obstacle = Obstacle(Path(job.run_url), pauses)
    yield obstacle
    obstacle.remove()


def state_at(job: Job, position: int) -> TrainState:
    return trained(job.settings.science, job.total, position)


def written(job: Job, name: str) -> dict[str, torch.Tensor]:
    """What a start would get from a folder."""
    folder = Path(job.run_url) / name
    assert damage(folder) is None
    state = start_state(job.settings.science, job.total, CPU)
    checkpoint.load(state, folder)
    return values(state)


def copies_of(state: TrainState) -> list[str]:
    """Grows by one each time that a copy of the state's target is taken."""
    taken: list[str] = []
    state.target.vit.register_state_dict_pre_hook(lambda *_: taken.append("copy"))
    return taken


def comes_to_wait(thread: threading.Thread) -> bool:
    """False where it ends instead."""
    while thread.is_alive():
        frame = sys._current_frames().get(thread.ident or 0)
        if frame is not None and frame.f_code is threading.Condition.wait.__code__:
            return True
        thread.join(0.01)
    return False


def test_pauses_grow_up_to_a_minute_and_each_is_told(
    job: Job, start: Start, obstacle: Obstacle, pauses: Pauses, group: Group, lines: list[str]
) -> None:
    pauses.then = lambda number: obstacle.remove() if number == 9 else None
    saver, state = start(), state_at(job, 60)
    saver(state, urgent=False)
    saver.finish()
    assert pauses.taken == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    begins = f"{obstacle.file}/encoder.safetensors: can't be written: "
    assert all(line.startswith(begins) for line in lines)
    ends = [f"; the checkpoint is written again in {pause:.0f} s, training goes on" for pause in pauses.taken]
    assert [line.endswith(end) for line, end in zip(lines, ends, strict=True)] == [True] * 9
    assert group.listed() == [folder_name(60)]
    assert equal(written(job, folder_name(60)), values(state))


def test_what_falls_due_while_one_is_written_is_left_out_and_costs_no_copy(
    job: Job, start: Start, obstacle: Obstacle, group: Group, lines: list[str]
) -> None:
    saver, state = start(), state_at(job, 60)
    first, copies = values(state), copies_of(state)
    saver(state, urgent=False)
    with torch.no_grad():  # training goes on in the same memory
        for value in (*state.model.parameters(), *state.target.parameters()):
            value.add_(1)
    for position in (120, 130):
        state.position = position
        saver(state, urgent=False)
    assert len(copies) == 1, "the memory of each would be that of the model and its moments"
    assert group.reports == [folder_name(60), None, None], "a report is a barrier: the other ranks wait at theirs"
    left_out = "no checkpoint at {} images seen: the one before is still being written"
    assert [line for line in lines if line.startswith("no ")] == [left_out.format(120), left_out.format(130)]
    obstacle.remove()
    saver.finish()
    state.position = 180
    saver(state, urgent=False)
    saver.finish()
    assert group.listed() == [folder_name(60), folder_name(180)]
    assert equal(written(job, folder_name(60)), first), "the state of that moment, whatever came after"
    assert equal(written(job, folder_name(180)), values(state))


@pytest.mark.parametrize(("position", "urgent"), [(70, True), (240, False)])
def test_the_last_one_and_one_for_a_notice_wait_for_the_one_before(
    job: Job, start: Start, obstacle: Obstacle, group: Group, position: int, urgent: bool
) -> None:
    saver, state = start(), state_at(job, position)
    saver(state_at(job, 60), urgent=False)
    thread = threading.Thread(target=saver, args=(state,), kwargs={"urgent": urgent}, daemon=True)
    thread.start()
    waited = comes_to_wait(thread)
    obstacle.remove()
    thread.join()
    saver.finish()
    assert waited
    assert group.listed() == group.reports == [folder_name(60), folder_name(position)]
    assert equal(written(job, folder_name(position)), values(state))


def test_the_end_waits_for_what_is_still_being_written(job: Job, start: Start, obstacle: Obstacle) -> None:
    saver = start()
    saver(state_at(job, 60), urgent=False)
    thread = threading.Thread(target=saver.finish, daemon=True)
    thread.start()
    waited = comes_to_wait(thread)
    obstacle.remove()
    thread.join()
    assert waited, "the log would be closed under the thread that writes to it"
    assert damage(obstacle.file) is None


def test_what_no_storage_is_to_blame_for_ends_the_writer_and_holds_nobody_up(
    job: Job, start: Start, group: Group, pauses: Pauses
) -> None:
    saver = start(plan=object())  # JSON has no such thing
    saver(state_at(job, 60), urgent=False)
    saver.finish()
    with pytest.raises(TypeError, match="object"):
        group.listed()
    assert pauses.taken == []


def test_a_folder_that_was_passed_over_is_left_and_the_next_gets_another_name(
    job: Job, start: Start, group: Group
) -> None:
    torn, name = Path(job.run_url) / folder_name(60), f"{folder_name(60)}.{ATTEMPT.name[:8]}"
    torn.mkdir()
    (torn / "encoder.safetensors").write_bytes(b"half of")
    saver, state = start(taken=frozenset({torn.name})), state_at(job, 60)
    saver(state, urgent=False)
    saver.finish()
    assert group.listed() == [name]
    assert [file.name for file in torn.iterdir()] == ["encoder.safetensors"]
    assert [stored.root.name for stored in run.checkpoints(place(job.run_url))] == [torn.name, name], "tried first"
    assert equal(written(job, name), values(state))


@pytest.mark.parametrize("urgent", [False, True])
def test_other_ranks_report_without_a_checkpoint_and_write_nothing(
    job: Job, start: Start, group: Group, urgent: bool
) -> None:
    saver, state = start(writes=False), state_at(job, 60)
    copies = copies_of(state)
    saver(state, urgent=urgent)
    saver.finish()
    assert group.reports == [None]
    assert group.uploads == []
    assert copies == []
    assert [file.name for file in Path(job.run_url).iterdir()] == ["metrics.jsonl"], "which rank 0 put there"


def test_sharded_every_rank_takes_part_in_each_copy_though_the_first_may_leave_it_out(
    job: Job, start: Start, obstacle: Obstacle, group: Group
) -> None:
    """Whole tensors are gathered from all ranks, and the others can't know that the first is still writing."""
    settings = dataclasses.replace(job.settings, runtime=dataclasses.replace(job.settings.runtime, sharding="fsdp"))
    sharded, copies = dataclasses.replace(job, settings=settings), []
    for writes in (True, False):
        saver, state = start(sharded, writes=writes), state_at(job, 60)
        copies.append(copies_of(state))
        for state.position in (60, 120):
            saver(state, urgent=False)
    assert copies == [["copy", "copy"]] * 2
    assert group.reports == [folder_name(60), None, None, None]


def see(seen: Seen, start: int, stop: int) -> None:
    seen.add(np.arange(start, stop), [f"image-{at}" for at in range(start, stop)])


def test_rows_of_what_was_left_out_are_in_the_next_file(job: Job, start: Start, obstacle: Obstacle) -> None:
    seen, state = Seen(ATTEMPT.name, 0), state_at(job, 0)
    saver = start(seen=seen)
    for before, state.position in ((0, 60), (60, 120), (120, 180)):
        see(seen, before, state.position)
        if state.position == 180:
            obstacle.remove()
            saver.finish()
        saver(state, urgent=False)
    saver.finish()
    files = sorted((Path(job.run_url) / FOLDER).iterdir())
    found = [pq.read_table(file)["position"].to_pylist() for file in files]
    assert found == [list(range(60)), list(range(60, 180))]
    assert [file.name for file in files] == [f"{position:012d}-{ATTEMPT.name}.parquet" for position in (60, 180)]
    rows = lineage(place(job.run_url), ATTEMPT.name, 180)
    assert rows["image_id"].to_pylist() == [f"image-{at}" for at in range(180)]


def test_the_first_rank_gathers_what_each_rank_has_seen_since(
    job: Job, start: Start, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.workers, handed = 2, []

    def gather_object(mine: pa.Table, gathered: list[pa.Table | None] | None = None) -> None:
        """The second rank comes first, so that one thread is enough."""
        handed.append(mine)
        assert (gathered is None) == (len(handed) % 2 == 1), "only where it is gathered is there a list"
        if gathered is not None:
            gathered[:] = handed[-2:]

    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "gather_object", gather_object)
    ranks = [Seen(ATTEMPT.name, rank) for rank in (0, 1)]
    first, second = start(seen=ranks[0]), start(seen=ranks[1], writes=False)
    for position in (60, 120):
        see(ranks[0], position - 60, position - 30)
        see(ranks[1], position - 30, position)
        for saver in (second, first):
            saver(state_at(job, position), urgent=False)
        first.finish()
    rows = lineage(place(job.run_url), ATTEMPT.name, 120)
    assert rows["position"].to_pylist() == list(range(120))
    assert rows["rank"].to_pylist() == ([0] * 30 + [1] * 30) * 2
    assert group.listed() == [folder_name(60), folder_name(120)]


def test_of_each_machine_that_is_about_to_go_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = [[], ["a"], ["a"], ["a", "b"], ["b"], [], ["a"], ["c"]]

    def look() -> PreemptionInfo | None:
        nodes = told.pop(0)
        return PreemptionInfo(None, {node: [0] for node in nodes}) if nodes else None

    monkeypatch.setattr(ray.train, "get_preemption_info", look)
    notices = Notices()
    assert [notices() for _ in range(8)] == [False, True, False, True, False, False, False, True]
