"""What is wrong is a line that says what to do, and nothing raises."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_cluster import chexworld

from chexworld_ray.benchmarks.object_store import Answer, environment, proxy, s3_server
from chexworld_ray.runtime import checks
from chexworld_ray.runtime.doctor import _slots, examine, failed


def test_a_healthy_machine(ray_here: None, tmp_path: Path) -> None:
    found = examine(str(tmp_path / "runs"))
    assert not failed(found)
    assert {"versions", "storage", "clock", "Ray", "slots", "auth"} <= {check.name for _, check in found}
    assert not list((tmp_path / "runs").iterdir()), "the probe stays behind"


def test_storage_that_refuses_and_storage_that_is_read_only(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    (check,) = checks.storage_checks(str(file / "runs"))
    assert check.state == "fail"
    assert check.advice
    (check,) = checks.storage_checks("s3://user:secret@bucket/runs")
    assert check.state == "fail"
    assert "secret" not in check.said


@pytest.mark.cluster
def test_a_broken_set_up_on_s3(tmp_path: Path) -> None:
    """Wrong key, no bucket, an address where nobody answers: exit code 1, a line each."""
    (tmp_path / "bucket").mkdir()
    with s3_server(tmp_path) as port:
        env = environment(port)
        with ThreadPoolExecutor(3) as pool, proxy(port, lambda *_: Answer(403, "InvalidAccessKeyId")) as refusing:
            spoilt = environment(refusing.port)
            asked = (("s3://bucket/runs", env), ("s3://nobucket/runs", env), ("s3://bucket/runs", spoilt))
            healthy, missing, refused = pool.map(
                lambda ask: chexworld("doctor", "--storage", ask[0], "--json", env=ask[1], check=False), asked
            )
    assert healthy.returncode == 0
    assert {check["state"] for check in json.loads(healthy.stdout)["checks"]} <= {"ok", "warn"}
    assert missing.returncode == refused.returncode == 1
    assert "no such bucket" in missing.stdout
    assert "credentials" in refused.stdout
    lost = chexworld("doctor", env={"RAY_ADDRESS": "127.0.0.1:1"}, check=False)
    assert lost.returncode == 1
    assert "can't be reached" in lost.stdout
    for done in (missing, refused, lost):
        assert "Traceback" not in done.stdout + done.stderr


def test_a_wrong_clock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = checks._stamp
    monkeypatch.setattr(checks, "_stamp", lambda info: (stamp(info) or 0.0) + 1000.0)
    found = {check.name: check for check in checks.storage_checks(str(tmp_path))}
    assert found["clock"].state == "fail"
    assert "999 s off" in found["clock"].said or "1000 s off" in found["clock"].said


def test_several_machines_without_slots_are_warned_of(ray_here: None) -> None:
    assert _slots([{}]).state == "ok"
    assert _slots([{}, {}]).state == "warn"
