"""What happens to an ingest on real machines: kill -9, a second one beside it, a store that throttles or refuses.

The first has a Ray of its own, as on a laptop; all others share a head, as on a cluster.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_cluster import TOKEN, head_node

from chexworld_ray.benchmarks.object_store import SECRET, Answer, Proxy, environment, proxy, s3_server
from chexworld_ray.phantoms.dataset import write_phantoms
from chexworld_ray.storage import place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
IMAGES = 192


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bucket's folder with phantoms in it."""
    bucket = tmp_path_factory.mktemp("s3") / "bucket"
    write_phantoms(place(str(bucket / "phantoms")), IMAGES, 0, 96)
    return bucket


@dataclass
class Store:
    """An S3 server behind a proxy, the only one that the head's processes know; tests spoil its answers."""

    between: Proxy
    env: dict[str, str]
    """Of drivers: the head's address, and the store's."""

    def spoil(self, spoilt: Callable[[int], Answer | None]) -> None:
        """Answers in place of the server's, by the number of a request from now on."""
        asked = len(self.between.seen)
        self.between.spoilt = 0
        self.between.decide = lambda number, *_: spoilt(number - asked)


@pytest.fixture(scope="module")
def all_answers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with s3_server(folder.parent) as port, proxy(port, lambda *_: None) as between:
        env = environment(between.port)
        with head_node(tmp_path_factory.mktemp("head"), "--num-cpus", "2", env=env) as head:
            yield Store(between, env | TOKEN | {"RAY_ADDRESS": head.drivers})


@pytest.fixture
def store(all_answers: Store) -> Store:
    all_answers.spoil(lambda number: None)
    return all_answers


@pytest.fixture(scope="module")
def undisturbed(folder: Path, all_answers: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an ingest that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    done = run(str(folder / "phantoms"), str(out), all_answers.env)
    assert done.returncode == 0, done.stderr
    return contents(out)


def command(source: str, out: str) -> list[str]:
    return [sys.executable, "-m", "chexworld_ray", "ingest", source, "--labels", "labels.csv", "--out", out, "--json"]


def run(source: str, out: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(source, out), capture_output=True, text=True, check=False, env=os.environ | env)


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def wait_for_records(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until at least `count` chunks are finished."""
    end = time.monotonic() + 240
    while len(list((out / "_ingest").glob("*.record.parquet"))) < count:
        assert process.poll() is None, "the ingest ended before it was disturbed"
        assert time.monotonic() < end
        time.sleep(0.02)


def test_killed_and_started_again_it_ends_with_the_same_bytes(
    folder: Path, undisturbed: dict[str, bytes], store: Store, tmp_path: Path
) -> None:
    source, out = str(folder / "phantoms"), tmp_path / "data"
    first = subprocess.Popen(command(source, str(out)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_records(out, 2, first)
        first.send_signal(signal.SIGSTOP)  # alive, and not done before the second has looked
        second = run(source, str(out), store.env)
        # Its workers are not stopped, and may finish what they hold at any time: records first, then files.
        records = len(list((out / "_ingest").glob("*.record.parquet")))
        finished = {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1].startswith(f"chexworld: {out}: another ingest writes there (process")
    assert "Traceback" not in second.stderr
    again = run(source, str(out), store.env)
    assert again.returncode == 0, again.stderr
    before = re.search(r"(\d+) of \d+ chunks were done before", again.stderr)
    assert before, again.stderr
    assert int(before[1]) >= records
    assert contents(out) == undisturbed
    redone = [name for name, at in finished.items() if (out / name).stat().st_mtime_ns != at]
    assert len(redone) <= len(finished) - records, "finished files are not done again"


def test_a_store_that_throttles_slows_an_ingest_down_and_nothing_else(
    folder: Path, undisturbed: dict[str, bytes], store: Store
) -> None:
    answers = [Answer(503, "SlowDown"), Answer(500, "InternalError"), Answer(0, "")]
    store.spoil(lambda number: None if number % 30 else answers[number // 30 % 3])
    done = run("s3://bucket/phantoms", "s3://bucket/throttled", store.env)
    assert done.returncode == 0, done.stderr
    assert store.between.spoilt > 10
    assert contents(folder / "throttled") == undisturbed
    assert json.loads(done.stdout)["rejected"] == {}
    shutil.rmtree(folder / "throttled")


def test_credentials_that_expire_stop_an_ingest_in_one_line_and_reject_no_image(
    folder: Path, undisturbed: dict[str, bytes], store: Store
) -> None:
    refused = Answer(403, "InvalidAccessKeyId")
    store.spoil(lambda number: refused if number > 300 else None)
    done = run("s3://bucket/phantoms", "s3://bucket/expired", store.env)
    assert done.returncode == 2, done.stderr
    assert "the store refuses" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("chexworld: s3://bucket/")
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    assert not (folder / "expired" / "manifest.json").exists()
    store.spoil(lambda number: None)
    again = run("s3://bucket/phantoms", "s3://bucket/expired", store.env)
    assert again.returncode == 0, again.stderr
    assert contents(folder / "expired") == undisturbed
    shutil.rmtree(folder / "expired")


def test_a_missing_bucket_is_told_before_anything_is_read(folder: Path, store: Store) -> None:
    done = run(str(folder / "phantoms"), "s3://buckett/data", store.env)
    assert done.returncode == 2
    assert "no such bucket" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
