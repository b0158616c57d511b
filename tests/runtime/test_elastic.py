"""Machines come, are given notice and go, on a real cluster of several nodes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ray._private.node import Node
from ray.cluster_utils import Cluster
from straight import straight
from test_cluster import followed, metrics, newest_attempt, wait_until
from test_spot import Aws, serving

from chexworld_ray.benchmarks.chaos import count
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import make_plan
from chexworld_ray.training.run import load_url
from chexworld_ray.training.seen import lineage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STORE = 200 * 2**20
RUN = [
    *("--recipe", "demo", "--model.image-size", "96", "--model.depth", "8", "--global-batch", "10", "--epochs", "300"),
    *("--precision", "fp32", "--optim.lr", "1e-5", "--torch-threads", "1", "--micro-batch", "5", "--keep", "100"),
    *("--checkpoint-images", "200", "--log-batches", "1", "--notice-batches", "1", "--probe-images", "0"),
    *("--segment-images", "2000", "--record-seen"),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without a slot, where the driver runs; machines with a slot are added by the test."""
    for name, value in (
        ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20"),
        ("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1"),
    ):
        monkeypatch.setenv(name, value)
    head = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    yield started
    started.shutdown()


def add(cluster: Cluster) -> Node:
    return cluster.add_node(num_cpus=1, resources={"train_slot": 1}, object_store_memory=STORE)


def last(run: Path, name: str) -> int:
    """A number of the run's newest record."""
    lines = metrics(run)
    return int(lines[-1][name]) if lines else 0


def newest_whole(run: Path) -> int:
    """Position of the newest checkpoint whose manifest is written."""
    return max((int(file.parent.name.split("_")[1]) for file in run.glob("checkpoint_*/MANIFEST.json")), default=0)


def test_one_two_one_workers_see_and_learn_what_one_does(
    cluster: Cluster, phantom_set: Manifest, tmp_path: Path
) -> None:
    """Grows when a machine comes; on a spot notice a checkpoint at once; shrinks when the machine is gone."""
    arguments = ["pretrain", "--data", phantom_set.root.path, "--storage", str(tmp_path), *RUN]
    aws = Aws()
    with serving(aws) as metadata:
        run_on_spot(cluster, arguments, tmp_path, aws, metadata)
    spots = metrics(tmp_path / "spot")
    record = load_url(str(tmp_path / "spot"))
    alone = straight(record, phantom_set, last(tmp_path / "spot", "images_seen"))
    assert [line["images_seen"] for line in spots] == alone.column("images_seen")
    assert [line["loss"] for line in spots] == pytest.approx(alone.column("loss"), rel=1e-3)
    assert {line["workers"] for line in spots} == {1, 2}
    whole = newest_whole(tmp_path / "spot")
    seen = lineage(record.root, newest_attempt(tmp_path / "spot", whole), whole)
    plan = make_plan([phantom_set], record.science.splits, record.science.projections, record.science.seed)
    assert count(plan, seen, whole) == {"lost": 0, "repeated": 0, "misplaced": 0}
    assert {line["workers"] for line in spots if line["images_seen"] <= 200} == {1}, "an evaluation slot was counted"


@contextmanager
def driving(arguments: list[str], run: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A driver that is stopped at the end, and must not have ended before."""
    log = run.parent / f"{run.name}.log"
    command = [sys.executable, "-m", "chexworld_ray", *arguments, "--name", run.name]
    with followed(log, command, env) as driver:
        yield driver
        assert driver.poll() is None, log.read_text()
        driver.terminate()  # a private Ray goes with it
        driver.wait(60)


def run_on_spot(cluster: Cluster, arguments: list[str], tmp_path: Path, aws: Aws, metadata: str) -> None:
    run = tmp_path / "spot"
    add(cluster)
    cluster.add_node(num_cpus=1, resources={"eval_slot": 1}, object_store_memory=STORE)  # is no place for training
    words = [*arguments, "--workers", "1:2", "--resize-seconds", "10"]
    with driving(words, run, RAY_ADDRESS=cluster.address):
        wait_until(lambda: newest_whole(run) >= 200, "a checkpoint of one worker")
        spot = add(cluster)
        watching = [*("drain", "--watch", "aws", "--endpoint", metadata), *("--node", spot.node_id)]
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        watcher = subprocess.Popen([sys.executable, "-m", "chexworld_ray", *watching], env=environment)
        wait_until(lambda: last(run, "workers") == 2, "two workers")
        deadline = datetime.fromtimestamp(time.time() + 10, UTC)
        aws.action = {"action": "terminate", "time": deadline.strftime("%Y-%m-%dT%H:%M:%SZ")}
        wait_until(lambda: newest_whole(run) % 200 != 0, "a checkpoint because of the notice")
        assert watcher.wait(60) == 0
        cluster.remove_node(spot, allow_graceful=False)
        wait_until(lambda: last(run, "workers") == 1, "one worker again")
        at = newest_whole(run)
        wait_until(lambda: newest_whole(run) >= at + 200, "a checkpoint of one worker again")
