"""What stands in for Ray's worker group, for the clock, and for a server of MLflow."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pyarrow.fs import LocalFileSystem
from ray.train import Checkpoint, CheckpointUploadMode


class Group:
    """Ray Train as a worker sees it: `report` has what writes a checkpoint called in a thread, one after the other."""

    def __init__(self, path: str) -> None:
        self.path, self.workers = path, 1
        self.reports: list[str | None] = []
        """Folder name of each, None where it came without a checkpoint."""
        self.uploads: list[Future[Checkpoint]] = []
        self.thread = ThreadPoolExecutor(1)

    def get_world_size(self) -> int:
        return self.workers

    def get_storage(self) -> SimpleNamespace:
        return SimpleNamespace(experiment_fs_path=self.path, storage_filesystem=LocalFileSystem())

    def report(
        self,
        metrics: dict[str, Any],
        checkpoint: Checkpoint | None = None,
        checkpoint_dir_name: str | None = None,
        checkpoint_upload_mode: CheckpointUploadMode = CheckpointUploadMode.SYNC,
        delete_local_checkpoint_after_upload: bool | None = None,
        checkpoint_upload_fn: Callable[[Checkpoint, str], Checkpoint] | None = None,
    ) -> None:
        assert checkpoint_upload_mode == CheckpointUploadMode.ASYNC, "any other holds the step up"
        self.reports.append(checkpoint_dir_name)
        if checkpoint is None:
            return
        assert checkpoint_dir_name is not None
        assert checkpoint_upload_fn is not None
        assert not delete_local_checkpoint_after_upload, "what is reported is where it stays"
        self.uploads.append(self.thread.submit(checkpoint_upload_fn, checkpoint, checkpoint_dir_name))

    def listed(self) -> list[str]:
        """Names that Ray takes into its list of checkpoints, once they are written; raises what a writer raised."""
        paths = [Path(upload.result().path) for upload in self.uploads]
        assert {path.parent for path in paths} <= {Path(self.path)}, "Ray refuses one outside the run"
        return [path.name for path in paths]


class Pauses:
    """A clock that only pauses move: each is noted, does `then` with its number, and takes no time."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.then: Callable[[int], object] = lambda _: None

    def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.then(len(self.taken))

    def now(self) -> float:
        return sum(self.taken)


class MlflowServer:
    """As much of MLflow's REST interface as a tracker needs: one experiment, and the runs that are made in it."""

    def __init__(self) -> None:
        self.address = ""
        self.experiment: str | None = None
        self.runs: dict[str, dict[str, Any]] = {}

    def answer(self, what: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to one request; None where there is no such thing."""
        if what == "experiments/get-by-name":
            experiment = {"experiment_id": "1", "name": self.experiment}
            return None if self.experiment is None else {"experiment": experiment}
        if what == "experiments/create":
            self.experiment = asked["name"]
            return {"experiment_id": "1"}
        if what == "runs/create":
            run_id = f"run{len(self.runs)}"
            tags = {tag["key"]: tag["value"] for tag in asked["tags"]}
            self.runs[run_id] = {"tags": tags, "params": {}, "points": [], "status": "RUNNING"}
            return {"run": {"info": {"run_id": run_id, "experiment_id": "1"}}}
        run = self.runs.get(asked.get("run_id", ""))
        if run is None:
            return None
        if what == "runs/log-parameter":
            run["params"][asked["key"]] = asked["value"]
        elif what == "runs/log-batch":
            run["points"] += [(one["key"], one["step"], one["value"]) for one in asked["metrics"]]
        elif what == "runs/update":
            run["status"] = asked["status"]
        info = {"run_id": asked["run_id"], "experiment_id": "1"}
        return {"run_info": info, "run": {"info": info}}


@contextmanager
def mlflow_server() -> Iterator[MlflowServer]:
    """Such a server on this machine."""
    known = MlflowServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(dict(parse_qsl(urlsplit(self.path).query)))

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, asked: dict[str, Any]) -> None:
            found = known.answer(urlsplit(self.path).path.partition("/mlflow/")[2], asked)
            answer = found if found is not None else {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
