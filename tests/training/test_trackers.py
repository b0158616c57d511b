"""Trackers beside the run's own log: one MLflow run whatever happens, and none that could stop ours."""

import sys
from pathlib import Path

import pytest

from chexworld_ray.errors import UserError
from chexworld_ray.storage import place, read_json
from chexworld_ray.training.log import RunLog
from chexworld_ray.training.trackers import IDENTITY, Tracking, require

mlflow = pytest.importorskip("mlflow", reason="mlflow is an extra")
RECORD = {"images_seen": 10, "loss": 0.5, "images_per_second": 3.0, "time": 1.0, "name": "text"}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return []


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(told: list[str], tmp_path: Path) -> None:
    run = place(str(tmp_path / "first"))
    Path(run.path).mkdir()
    for images in (10, 20):
        tracking = Tracking("mlflow", run, {"optim": {"lr": 0.1}}, told.append)
        with RunLog(run, images - 10, tensorboard=False, tracking=tracking) as log:
            log.write(RECORD | {"images_seen": images, "loss": images / 100})
    assert told == []
    client = mlflow.MlflowClient()
    (experiment,) = [one for one in client.search_experiments() if one.name == "chexworld_ray"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == read_json(run / IDENTITY)["mlflow"]
    assert found.info.status == "FINISHED"
    assert found.data.params["optim.lr"] == "0.1"
    assert found.data.tags["url"] == run.url
    points = client.get_metric_history(found.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(10, 0.1), (20, 0.2)]


def test_a_tracker_that_fails_is_told_once_without_its_password(
    told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:topsecret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = place(str(tmp_path / "second"))
    Path(run.path).mkdir()
    with RunLog(run, 0, tensorboard=False, tracking=Tracking("mlflow", run, {}, told.append)) as log:
        log.write(RECORD)
        log.write(RECORD | {"images_seen": 20})
    assert len(told) == 1
    assert "given up" in told[0]
    assert "topsecret" not in told[0]
    assert (tmp_path / "second" / "metrics.jsonl").read_text().count("\n") == 2


def test_a_client_that_is_not_installed_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    require(None)
    require("mlflow")
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"chexworld_ray\[wandb\]"):
        require("wandb")
