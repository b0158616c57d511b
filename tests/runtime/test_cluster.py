"""Losses and clusters as they happen: killed workers and drivers, a real `ray job submit`, a real S3 server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from straight import same_weights, straight

from chexworld_ray.benchmarks.object_store import environment, s3_server
from chexworld_ray.evaluation.results_file import read_results
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.storage import place
from chexworld_ray.training.run import load_url
from chexworld_ray.training.seen import lineage

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).parents[2]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
# a head that is told to end waits half a minute for actors that outlive their drivers, as Train's do
NO_DRAIN = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
SMALL = [
    *("--recipe", "demo", "--model.image-size", "48", "--model.width", "48", "--model.predictor-width", "24"),
    *("--global-batch", "10", "--epochs", "24", "--precision", "fp32", "--torch-threads", "1"),
    *(
        "--micro-batch",
        "8",
        "--checkpoint-images",
        "200",
        "--log-batches",
        "5",
        "--segment-images",
        "500",
        "--keep",
        "50",
    ),
]


def chexworld(
    *arguments: str, env: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "chexworld_ray", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | (env or {}),
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def metrics(run: Path) -> list[dict[str, float]]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"timed out waiting for: {what}"
        time.sleep(0.2)


def descendants(pid: int, title: str) -> list[int]:
    """Processes below `pid` whose command line starts with `title`."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue

    def below(candidate: int) -> bool:
        while candidate in parents:
            candidate = parents[candidate]
            if candidate == pid:
                return True
        return False

    return [candidate for candidate in titles if titles[candidate].startswith(title) and below(candidate)]


def newest(run: Path) -> int:
    found = [int(path.name.split("_")[1]) for path in run.glob("checkpoint_*") if path.name.split("_")[1].isdigit()]
    return max(found, default=0)


@pytest.mark.nightly  # one at a time: the chain on S3 below loses a worker, `test_torn` goes on after a dead driver
def test_a_run_that_lost_worker_and_driver_ends_like_an_undisturbed_one(phantom_set: Manifest, tmp_path: Path) -> None:
    """Bit for bit: so the images, crops, actions and masks after each loss were the ones that were due."""
    arguments = ["pretrain", "--data", phantom_set.root.path, "--storage", str(tmp_path), *SMALL]
    arguments += ["--epochs", "18", "--checkpoint-images", "100", "--name", "cut"]
    run = tmp_path / "cut"
    command = [sys.executable, "-m", "chexworld_ray", *arguments]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: newest(run) >= 200, "two checkpoints")
    (worker,) = descendants(driver.pid, "ray::RayTrainWorker")
    os.kill(worker, signal.SIGKILL)
    at = newest(run)
    wait_until(lambda: newest(run) >= at + 200, "two checkpoints after the worker's loss")
    driver.kill()
    driver.wait()
    record = load_url(str(run))
    assert newest(run) < record.total, "the driver was killed too late to show anything"
    done = chexworld(*arguments)
    assert "going on from" in done.stderr
    alone = straight(record, phantom_set)
    assert [line["images_seen"] for line in metrics(run)] == alone.column("images_seen")
    last = run / f"checkpoint_{newest(run):012d}"
    assert newest(run) == record.total
    assert same_weights(last, alone.weights()) == []
    assert metrics(run)[-1]["loss"] == pytest.approx(alone.column("loss")[-1], rel=1e-6)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass(frozen=True)
class HeadNode:
    """A process, its address for jobs (the dashboard's), and for drivers (RAY_ADDRESS)."""

    pid: int
    jobs: str
    drivers: str


@contextmanager
def head_node(folder: Path, *words: str, env: dict[str, str] | None = None) -> Iterator[HeadNode]:
    """A head node that wants a token, and a dashboard on ports of its own."""
    port, dashboard, client, agent, agent_grpc, metrics_port = free_ports(6)
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", *words),
        *("--port", str(port), "--dashboard-port", str(dashboard), "--ray-client-server-port", str(client)),
        *("--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(agent_grpc)),
        *("--metrics-export-port", str(metrics_port), "--node-ip-address", "127.0.0.1"),
        *("--object-store-memory", str(300 * 2**20), "--disable-usage-stats"),
    ]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    address = f"http://127.0.0.1:{dashboard}"

    def takes_jobs() -> bool:
        listing = [str(Path(sys.executable).parent / "ray"), "job", "list", "--address", address]
        return subprocess.run(listing, env=os.environ | TOKEN, capture_output=True, check=False).returncode == 0

    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | TOKEN | NO_DRAIN | path | (env or {})
        )
        try:
            wait_until(takes_jobs, "a head that takes jobs", 120)
            yield HeadNode(process.pid, address, f"127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(60)


@dataclass(frozen=True)
class Head:
    """A head node with two places to train and one to evaluate, and an S3 server that only its nodes know."""

    address: str
    pid: int
    s3: dict[str, str]
    """Environment of the server's clients."""
    bucket: Path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """One for all tests of jobs; the S3 server (rclone) is a real one on loopback."""
    bucket = tmp_path_factory.mktemp("s3") / "bucket"
    bucket.mkdir()
    slots = json.dumps({"train_slot": 2, "eval_slot": 1})
    with s3_server(bucket.parent) as port:
        s3, folder = environment(port), tmp_path_factory.mktemp("head")
        with head_node(folder, "--num-cpus", "4", "--resources", slots, env=s3) as node:
            yield Head(node.jobs, node.pid, s3, bucket)


def submission(address: str, *arguments: str) -> list[str]:
    ray = str(Path(sys.executable).parent / "ray")
    return [ray, "job", "submit", "--address", address, "--working-dir", str(ROOT), "--", "python", *arguments]


def submit(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = submission(address, *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | TOKEN)


@pytest.mark.cluster
def test_a_job_that_can_never_be_placed_ends_in_one_line(head: Head, phantom_set: Manifest, tmp_path: Path) -> None:
    base = ["jobs/pretrain.py", "--data", phantom_set.root.path, "--storage", str(tmp_path), *SMALL, "--epochs", "6"]
    refused = submit(head.address, *base, "--name", "never", "--workers", "50")
    assert refused.returncode != 0
    lines = {line for line in refused.stdout.splitlines() if line.startswith("chexworld:")}  # Ray repeats the last logs
    assert len(lines) == 1, refused.stdout
    assert "can never be placed" in lines.pop()
    assert "Traceback" not in refused.stdout


@pytest.mark.cluster
def test_submit_uploads_its_own_code_follows_and_goes_on_under_the_same_name(
    head: Head, phantom_set: Manifest, tmp_path: Path
) -> None:
    run = ["pretrain", "--data", phantom_set.root.path, "--storage", str(tmp_path), *SMALL, "--name", "sent"]
    sending = ["submit", "--address", head.address, "--", *run, "--epochs", "12"]
    refused = chexworld(*sending, check=False)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "RAY_AUTH_TOKEN" in refused.stderr
    chexworld("submit", "--address", head.address, "--no-wait", *sending[3:], env=TOKEN)
    other = chexworld("submit", "--address", head.address, "--", *run, "--epochs", "3", env=TOKEN, check=False)
    assert other.returncode == 2, "the run is being trained with other settings"
    assert "ray job stop" in other.stderr
    followed = chexworld(*sending, env=TOKEN)
    assert "runs already" in followed.stderr
    assert "done: 820 images seen" in followed.stdout
    again = chexworld(*sending, env=TOKEN)
    assert "MB of code" in again.stderr
    assert "going on from 820 images seen" in again.stdout
    examined = chexworld("submit", "--address", head.address, "--", "doctor", "--storage", str(tmp_path), env=TOKEN)
    assert "auth: by token" in examined.stdout
    assert "fail" not in examined.stdout


@pytest.mark.cluster
def test_the_chain_on_s3_by_jobs_with_a_worker_killed_on_the_way(head: Head, tmp_path: Path) -> None:
    """Phantoms, then ingest, pretrain on two workers, evaluate beside it, report; credentials only on the nodes."""
    data, storage, folder, s3, address = "s3://bucket/data", "s3://bucket/runs", head.bucket, head.s3, head.address
    chexworld("phantoms", "--out", "s3://bucket/phantoms", "--images", "64", "--size", "96", env=s3)
    read = submit(address, "jobs/ingest.py", "s3://bucket/phantoms", "--labels", "labels.csv", "--out", data)
    assert read.returncode == 0, read.stdout
    run = folder / "runs" / "one"
    training = [*("jobs/pretrain.py", "--data", data, "--storage", storage, "--name", "one", *SMALL)]
    training += ["--epochs", "32", "--workers", "2", "--keep", "2", "--record-seen"]
    watching = ["jobs/evaluate.py", "--run", "s3://bucket/runs/one", "--data", data, "--watch", "1"]
    watching += ["--protocol", "knn,linear"]
    with (
        followed(tmp_path / "pretrain", submission(address, *training), TOKEN) as pretraining,
        followed(tmp_path / "evaluate", submission(address, *watching), TOKEN) as evaluating,
    ):
        wait_until(lambda: list(run.glob("checkpoint_*/MANIFEST.json")) != [], "a checkpoint")
        at = newest(run)
        os.kill(descendants(head.pid, "ray::RayTrainWorker")[0], signal.SIGKILL)
        assert pretraining.wait(400) == 0, (tmp_path / "pretrain").read_text()
        assert evaluating.wait(200) == 0, (tmp_path / "evaluate").read_text()
    total = int(metrics(run)[-1]["images_seen"])
    assert at < total, "the worker was killed too late to show anything"
    assert total == metrics(run)[-1]["images_total"]
    seen = lineage(place(str(run)), newest_attempt(run, total), total)
    assert seen["position"].to_pylist() == list(range(total))
    evaluated = {row.images_seen for row in read_results(place(str(run)))}
    assert {0, total} < evaluated, "a checkpoint was evaluated while it trained, and the last"
    whole = {file.parent.name for file in run.glob("checkpoint_*/MANIFEST.json")}
    assert len(whole - {f"checkpoint_{at:012d}"}) == 2, "the one that Ray was not told of before the kill may stay"
    chexworld("report", "--run", "s3://bucket/runs/one", env=s3)
    assert f"one@{total}" in (run / "report.html").read_text()
    shown = chexworld("inspect", data, "--json", "--views", "s3://bucket/views.png", env=s3)
    assert json.loads(shown.stdout)["images"] == 64
    assert (folder / "views.png").read_bytes()[:4] == b"\x89PNG"
    for file in folder.rglob("*"):
        assert not file.is_file() or b"topsecret" not in file.read_bytes(), file


@contextmanager
def followed(log: Path, command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command that goes on beside the test, at most as long; what it says goes to `log`."""
    with open(log, "w") as to:
        process = subprocess.Popen(command, stdout=to, stderr=to, env=os.environ | env)
        try:
            yield process
        finally:
            process.kill()


def newest_attempt(run: Path, position: int) -> str:
    """Which start of the run wrote the checkpoint at `position`."""
    return json.loads((run / f"checkpoint_{position:012d}" / "state.json").read_text())["attempt"]
