"""Trackers beside the run's own log: one MLflow run whatever happens, and none that could stop ours."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from stand_ins import mlflow_server

from chexworld_ray.errors import UserError
from chexworld_ray.storage import place, read_json
from chexworld_ray.training.log import RunLog
from chexworld_ray.training.trackers import IDENTITY, Tracking, require

pytest.importorskip("mlflow", reason="mlflow is an extra")
RECORD = {"images_seen": 10, "loss": 0.5, "images_per_second": 3.0, "time": 1.0, "name": "text"}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a user is told, who has set nothing."""
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return []


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(
    told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place(str(tmp_path / "first"))
    Path(run.path).mkdir()
    with mlflow_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        require("mlflow")
        for images in (10, 20):
            tracking = Tracking("mlflow", run, {"optim": {"lr": 0.1}}, told.append)
            with RunLog(run, images - 10, tensorboard=False, tracking=tracking) as log:
                log.write(RECORD | {"images_seen": images, "loss": images / 100})
    assert told == []
    assert server.experiment == "chexworld_ray"
    ((identity, found),) = server.runs.items()
    assert identity == read_json(run / IDENTITY)["mlflow"]
    assert found["status"] == "FINISHED"
    assert found["params"] == {"optim.lr": "0.1"}
    assert found["tags"]["url"] == run.url
    assert [point[1:] for point in found["points"] if point[0] == "loss"] == [(10, 0.1), (20, 0.2)]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "MLFLOW_TRACKING_URI is not set"),
        ("./mlruns", "workers don't find ./mlruns"),
        ("file:mlruns", "workers don't find file:mlruns"),
        ("sqlite:///mlflow.db", "workers don't find sqlite:///mlflow.db"),
        ("file:///tmp/mlruns", "is in maintenance mode"),
        ("/tmp/mlruns", "is in maintenance mode"),
        ("sqlite:////tmp/mlflow.db", "can't be used"),
        ("bogus://host", "can't be used"),
    ],
)
def test_an_address_that_mlflow_can_not_open_is_told_before_anything_starts(
    told: list[str], monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    """By the client that the extra installs."""
    if address.startswith("sqlite:////") and find_spec("sqlalchemy"):
        pytest.skip("the full package of mlflow is here, which opens it")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        require("mlflow")
    assert "MLFLOW_ALLOW_FILE_STORE=true" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_allowed_takes_the_numbers(
    told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the line on a folder that is not says."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    require("mlflow")
    run = place(str(tmp_path / "run"))
    Path(run.path).mkdir()
    Tracking("mlflow", run, {}, told.append).log(RECORD)
    assert told == []
    assert list((tmp_path / "mlruns").glob("*/*/metrics/loss"))


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
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"chexworld_ray\[wandb\]"):
        require("wandb")
