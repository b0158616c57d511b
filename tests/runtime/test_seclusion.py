"""A private Ray runs nobody else's code: it wants a token and is on loopback only. Keys do not lie about in it."""

import json
import os
import subprocess
import sys

import pytest

from chexworld_ray.config import RunSettings, Science
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.settings import EvaluationSettings
from chexworld_ray.runtime import cluster, sweep
from chexworld_ray.runtime.doctor import _private_access
from chexworld_ray.runtime.seclusion import without_keys
from chexworld_ray.shards.identity import KEY_VARIABLE

SECRETS = {KEY_VARIABLE: "a secret of the hospital", "AWS_SECRET_ACCESS_KEY": "a secret of the cloud"}
SECRETS["HUGGING_FACE_HUB_TOKEN"] = "a secret of the hub"

# A machine with an address besides loopback's; on it a private Ray, and somebody who tries to reach each of its ports.
MACHINE = """
ip link set lo up && ip addr add 10.99.0.1/24 dev lo && ip route add default dev lo src 10.99.0.1 && exec "$0" -c "$1"
"""
OWNER = """
import json, os, socket, subprocess, sys
import psutil, ray
from chexworld_ray.runtime.cluster import connect
from chexworld_ray.runtime.doctor import examine
connect("/a/local/folder")
ports = {
    connection.laddr.port
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
    for connection in process.net_connections("tcp")
    if connection.status == psutil.CONN_LISTEN
}
reached = [port for port in ports if not socket.socket().connect_ex(("10.99.0.1", port))]
environments = [open(f"/proc/{one.pid}/environ").read() for one in psutil.Process().children(recursive=True)]
environments.append(str(ray.get(ray.remote(lambda: dict(os.environ)).remote())))
stranger = "import ray, sys; ray.init(address=sys.argv[1]); print('code runs', ray.get(ray.remote(lambda: 1).remote()))"
command = [sys.executable, "-c", stranger, ray.get_runtime_context().gcs_address]
strangers = {
    who: subprocess.Popen(command, env=os.environ | auth, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for who, auth in (("nothing", {"RAY_AUTH_MODE": "disabled"}), ("guess", {"RAY_AUTH_TOKEN": "0" * 64}))
}
tried = {who: process.communicate()[0][-2000:] for who, process in strangers.items()}
print(json.dumps({
    "ports": len(ports), "reached": reached, "tried": tried, "environments": environments,
    "doctor": [check.said for _, check in examine(None) if check.name == "auth"],
}))
"""


@pytest.mark.cluster
def test_a_private_ray_is_reached_by_nobody_else() -> None:
    """From the machine's other address no port answers; on loopback nobody gets in without its token."""
    space = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net"]
    trial = subprocess.run([*space, "ip", "link", "set", "lo", "up"], check=False, capture_output=True)
    if trial.returncode:
        pytest.skip(f"no network namespace may be made here: {trial.stderr.decode()}")
    command = [*space, "sh", "-c", MACHINE, sys.executable, OWNER]
    done = subprocess.run(command, env=os.environ | SECRETS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ports"] > 5, "of its head, its raylet, its workers"
    assert told["reached"] == []
    for who, said in told["tried"].items():
        assert "code runs" not in said, who
        assert "oken" in said, f"{who}: refused for another reason: {said}"
    assert len(told["environments"]) > 3
    for environment in told["environments"]:
        assert not [secret for secret in SECRETS.values() if secret in environment]
    assert told["doctor"] == ["a private Ray, by a token of its own, on loopback only"]


def test_keys_are_back_when_ray_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with without_keys(clouds=False):
        assert KEY_VARIABLE not in os.environ
        assert "AWS_SECRET_ACCESS_KEY" in os.environ
    with without_keys(clouds=True):
        assert not SECRETS.keys() & os.environ.keys()
    assert {name: os.environ[name] for name in SECRETS} == SECRETS


def test_doctor_tells_where_a_private_ray_can_be_reached() -> None:
    assert _private_access(True, ["127.0.0.1", "::1"]).state == "ok"
    open_ = _private_access(True, ["127.0.0.1", "0.0.0.0"])
    assert open_.state == "warn"
    assert "listens on 0.0.0.0" in open_.said
    assert _private_access(False, ["127.0.0.1"]).state == "warn"


@pytest.mark.parametrize(
    ("address", "clouds"),
    [
        ("/a/folder", False),
        ("timm:vit_small_patch16_224@/a/file.pth", False),
        ("timm:vit_small_patch16_224@s3://bucket/file.pth", True),
        ("timm:hf-hub:gated/model", True),
        ("s3://bucket/run", True),
    ],
)
def test_who_fetches_from_a_hub_or_store_has_its_keys(
    address: str, clouds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "_quiet", lambda: None)
    monkeypatch.setattr(cluster, "_start", lambda *, clouds: started.append(clouds))
    cluster.connect("/a/local/folder", None, address)
    assert started == [clouds]


def test_a_sweep_asks_for_keys_of_what_it_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def connecting(*addresses: str | None, clouds: bool) -> None:
        assert not clouds, "no tracker is set"
        asked.extend(addresses)
        raise UserError("far enough")

    monkeypatch.setattr(sweep.manifests, "load", lambda url: None)
    monkeypatch.setattr(sweep, "_refuse_unlabelled", lambda *_: None)
    monkeypatch.setattr(sweep, "connect", connecting)
    variants = {"one": RunSettings(), "two": RunSettings(science=Science(init="timm:hf-hub:gated/model"))}
    with pytest.raises(UserError, match="far enough"):
        sweep.sweep(variants, ["/data"], "/out", 1, 1, EvaluationSettings())
    assert asked == ["/data", "/out", None, "timm:hf-hub:gated/model"]
