"""Losses and clusters as they happen: killed workers and drivers, a real `ray job submit`, a real S3 server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from chexworld_ray.benchmarks.object_store import environment, s3_server
from chexworld_ray.shards.manifest import Manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
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


def test_a_run_that_lost_worker_and_driver_ends_like_an_undisturbed_one(phantom_set: Manifest, tmp_path: Path) -> None:
    """Bit for bit: so the images, crops, actions and masks after each loss were the ones that were due."""
    arguments = ["pretrain", "--data", phantom_set.root.path, "--storage", str(tmp_path), *SMALL]
    chexworld(*arguments, "--name", "straight")
    run = tmp_path / "cut"
    command = [sys.executable, "-m", "chexworld_ray", *arguments, "--name", "cut"]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: newest(run) >= 400, "two checkpoints")
    (worker,) = descendants(driver.pid, "ray::RayTrainWorker")
    os.kill(worker, signal.SIGKILL)
    at = newest(run)
    wait_until(lambda: newest(run) >= at + 400, "two checkpoints after the worker's loss")
    driver.kill()
    driver.wait()
    at = newest(run)
    assert at < newest(tmp_path / "straight"), "the driver was killed too late to show anything"
    done = chexworld(*arguments, "--name", "cut")
    assert "going on from" in done.stderr
    seen = [record["images_seen"] for record in metrics(run)]
    assert seen == [record["images_seen"] for record in metrics(tmp_path / "straight")]
    last = f"checkpoint_{newest(run):012d}"
    for name in ("encoder", "target", "predictor"):
        straight = load_file(tmp_path / "straight" / last / f"{name}.safetensors")
        cut = load_file(run / last / f"{name}.safetensors")
        assert all((straight[key] == cut[key]).all() for key in straight), name
    losses = [[record["loss"] for record in metrics(tmp_path / name)] for name in ("straight", "cut")]
    assert losses[0][-3:] == pytest.approx(losses[1][-3:], rel=1e-6)


def test_one_and_two_workers_draw_the_same_loss_curve(phantom_set: Manifest, tmp_path: Path) -> None:
    """Also with a global batch (10) that three workers can't share evenly."""
    curves = []
    for workers in (1, 2, 3):
        extra = ["--workers", str(workers), "--epochs", "8"] + (["--cpus-per-worker", "0.25"] if workers == 3 else [])
        name = f"w{workers}"
        chexworld(
            "pretrain", "--data", phantom_set.root.path, "--storage", str(tmp_path), *SMALL, *extra, "--name", name
        )
        curves.append([record["loss"] for record in metrics(tmp_path / name)])
    assert len(curves[0]) > 8
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert curves[2] == pytest.approx(curves[0], rel=1e-3)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head node with two CPUs that wants a token, and a dashboard on ports of its own; its address for jobs."""
    port, dashboard, client, agent, agent_grpc, metrics_port = free_ports(6)
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus", "2"),
        *("--port", str(port), "--dashboard-port", str(dashboard), "--ray-client-server-port", str(client)),
        *("--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(agent_grpc)),
        *("--metrics-export-port", str(metrics_port), "--node-ip-address", "127.0.0.1"),
        *("--object-store-memory", str(300 * 2**20), "--disable-usage-stats"),
    ]
    env = os.environ | TOKEN | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    address = f"http://127.0.0.1:{dashboard}"

    def takes_jobs() -> bool:
        listing = [str(Path(sys.executable).parent / "ray"), "job", "list", "--address", address]
        return subprocess.run(listing, env=os.environ | TOKEN, capture_output=True, check=False).returncode == 0

    with open(tmp_path_factory.mktemp("head") / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        try:
            wait_until(takes_jobs, "a head that takes jobs", 120)
            yield address
        finally:
            process.terminate()
            process.wait(60)


def submit(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    ray = str(Path(sys.executable).parent / "ray")
    return subprocess.run(
        [ray, "job", "submit", "--address", address, "--working-dir", str(ROOT), "--", "python", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | TOKEN,
    )


def test_jobs_run_on_a_cluster_and_what_can_never_be_placed_ends_in_one_line(
    head: str, phantom_set: Manifest, tmp_path: Path
) -> None:
    base = ["jobs/pretrain.py", "--data", phantom_set.root.path, "--storage", str(tmp_path), *SMALL, "--epochs", "6"]
    done = submit(head, *base, "--name", "job", "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert metrics(tmp_path / "job")[-1]["images_seen"] == metrics(tmp_path / "job")[-1]["images_total"]
    refused = submit(head, *base, "--name", "never", "--workers", "50")
    assert refused.returncode != 0
    lines = {line for line in refused.stdout.splitlines() if line.startswith("chexworld:")}  # Ray repeats the last logs
    assert len(lines) == 1, refused.stdout
    assert "can never be placed" in lines.pop()
    assert "Traceback" not in refused.stdout
    evaluated = submit(
        head, "jobs/evaluate.py", "--run", str(tmp_path / "job"), "--data", phantom_set.root.path, "--protocol", "knn"
    )
    assert evaluated.returncode == 0, evaluated.stdout
    assert (tmp_path / "job" / "results.parquet").exists()


def test_submit_uploads_its_own_code_follows_and_goes_on_under_the_same_name(
    head: str, phantom_set: Manifest, tmp_path: Path
) -> None:
    run = ["pretrain", "--data", phantom_set.root.path, "--storage", str(tmp_path), *SMALL, "--name", "sent"]
    sending = ["submit", "--address", head, "--", *run, "--epochs", "12"]
    refused = chexworld(*sending, check=False)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "RAY_AUTH_TOKEN" in refused.stderr
    chexworld("submit", "--address", head, "--no-wait", *sending[3:], env=TOKEN)
    other = chexworld("submit", "--address", head, "--", *run, "--epochs", "3", env=TOKEN, check=False)
    assert other.returncode == 2, "the run is being trained with other settings"
    assert "ray job stop" in other.stderr
    followed = chexworld(*sending, env=TOKEN)
    assert "runs already" in followed.stderr
    assert "done: 820 images seen" in followed.stdout
    again = chexworld(*sending, env=TOKEN)
    assert "MB of code" in again.stderr
    assert "going on from 820 images seen" in again.stdout
    examined = chexworld("submit", "--address", head, "--", "doctor", "--storage", str(tmp_path), env=TOKEN)
    assert "auth: by token" in examined.stdout
    assert "fail" not in examined.stdout


@pytest.fixture
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server on loopback (rclone); the environment that its clients need."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    with s3_server(folder) as port:
        yield environment(port) | {"S3_FOLDER": str(folder)}


def test_the_five_steps_with_every_url_on_s3(s3: dict[str, str], phantom_folder: Path) -> None:
    data, run = "s3://bucket/data", "s3://bucket/runs/one"
    chexworld("phantoms", "--out", "s3://bucket/phantoms", "--images", "64", "--size", "96", env=s3)
    chexworld("ingest", "s3://bucket/phantoms", "--labels", "labels.csv", "--out", data, env=s3)
    shown = chexworld("inspect", data, "--json", "--views", "s3://bucket/views.png", env=s3)
    assert json.loads(shown.stdout)["images"] == 64
    arguments = ["pretrain", "--data", data, "--storage", "s3://bucket/runs", "--name", "one", *SMALL]
    chexworld(*arguments, "--epochs", "5", "--keep", "2", env=s3)
    chexworld("evaluate", "--run", run, "--data", data, "--protocol", "knn,linear", env=s3)
    chexworld("report", "--run", run, env=s3)
    folder = Path(s3["S3_FOLDER"]) / "bucket"
    assert len(list((folder / "runs" / "one").glob("checkpoint_*/MANIFEST.json"))) == 2
    assert "one@random" in (folder / "runs" / "one" / "report.html").read_text()
    assert metrics(folder / "runs" / "one")[-1]["images_seen"] > 0
    assert list((folder / "runs" / "one" / "tensorboard").iterdir())
    assert (folder / "views.png").read_bytes()[:4] == b"\x89PNG"
    for file in folder.rglob("*"):
        assert not file.is_file() or b"topsecret" not in file.read_bytes(), file
