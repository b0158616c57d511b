"""The cluster's files are what their readers take: Ray's launcher, KubeRay, hadolint, this program."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from kuberay import KINDS, differences
from ray.autoscaler._private.util import prepare_config, validate_config

from chexworld_ray.cli import parse

FILES = Path(__file__).parents[1] / "cluster"
SCHEMAS = Path(__file__).parents[2] / "shared" / "kuberay_schema"
LAUNCHER = ["aws-spot.yaml", "gcp-spot.yaml"]
KUBERAY = {"kuberay-raycluster.yaml": "RayCluster", "kuberay-rayjob.yaml": "RayJob"}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FILES / name).read_text())


def cluster_of(name: str) -> dict[str, Any]:
    record = read(name)
    return record["spec"].get("rayClusterSpec", record["spec"])


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_takes_the_launcher_files(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    types = config["available_node_types"]
    assert types["head"].get("max_workers") == 0
    assert {key for key, node in types.items() if "train_slot" in node["resources"]} == {"train"}
    assert {key for key, node in types.items() if "eval_slot" in node["resources"]} == {"evaluation"}
    spot = {key for key, node in types.items() if "spot" in json.dumps(node["node_config"]).lower()}
    assert spot == {"train", "data"}
    broken = read(name) | {"idle_timeout": 3}
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(broken))


def own_schema(name: str) -> dict[str, Any]:
    file = SCHEMAS / f"{KUBERAY[name]}.schema.json"
    if not file.exists():
        pytest.skip("KubeRay's own schemas are not at hand (../shared/kuberay_schema); tests/kuberay.py stands in")
    return json.loads(file.read_text())


def found_by(schema: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(manifest)]


def misspell(record: dict[str, Any], name: str, wrong: str) -> None:
    record[wrong] = record.pop(name)


SPOILINGS: dict[str, Callable[[dict[str, Any]], object]] = {
    "enableInTreeAutoscalng": lambda it: misspell(it, "enableInTreeAutoscaling", "enableInTreeAutoscalng"),
    "idleTimeoutSecond": lambda it: misspell(it["autoscalerOptions"], "idleTimeoutSeconds", "idleTimeoutSecond"),
    "groupNam": lambda it: misspell(it["workerGroupSpecs"][1], "groupName", "groupNam"),
    "rayStartParam": lambda it: misspell(it["headGroupSpec"], "rayStartParams", "rayStartParam"),
    "mountpath": lambda it: misspell(mount_of(it), "mountPath", "mountpath"),
    "maxReplicas": lambda it: it["workerGroupSpecs"][0].update(maxReplicas="8"),
    "num-cpus": lambda it: it["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    "mode": lambda it: it["authOptions"].update(mode="tokens"),
}


def spoilt_manifest(name: str, spoilt: str) -> dict[str, Any]:
    manifest = read(name)
    SPOILINGS[spoilt](manifest["spec"].get("rayClusterSpec", manifest["spec"]))
    return manifest


def mount_of(cluster: dict[str, Any]) -> dict[str, Any]:
    return cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["volumeMounts"][0]


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_the_manifests(name: str) -> None:
    assert found_by(KINDS[KUBERAY[name]], read(name)) == []


@pytest.mark.parametrize("spoilt", SPOILINGS)
@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_no_spoilt_manifest(name: str, spoilt: str) -> None:
    found = found_by(KINDS[KUBERAY[name]], spoilt_manifest(name, spoilt))
    assert any(spoilt in line for line in found), found
    assert len({line.split(":")[0] for line in found}) == 1, found


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberays_own_schema_takes_the_manifests(name: str) -> None:
    schema = own_schema(name)
    assert found_by(schema, read(name)) == []
    for spoilt in SPOILINGS:
        assert found_by(schema, spoilt_manifest(name, spoilt)), spoilt


@pytest.mark.parametrize("name", KUBERAY)
def test_the_small_schema_allows_nothing_that_kuberay_does_not_know(name: str) -> None:
    theirs, ours = own_schema(name), KINDS[KUBERAY[name]]
    assert list(differences(ours, theirs)) == []
    head = theirs["properties"]["spec"]["properties"]
    head = head.get("rayClusterSpec", {"properties": head})["properties"]["headGroupSpec"]["properties"]
    del head["rayStartParams"]
    assert [line.rsplit("/", 1)[-1] for line in differences(ours, theirs)] == ["rayStartParams: not known there"]


@pytest.mark.parametrize("name", KUBERAY)
def test_a_pod_has_time_to_tell_ray_that_it_goes(name: str) -> None:
    groups = {group["groupName"]: group for group in cluster_of(name)["workerGroupSpecs"]}
    for group in ("train", "data"):
        pod = groups[group]["template"]["spec"]
        drain = parse(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1:])
        assert drain.seconds + 5 <= pod.get("terminationGracePeriodSeconds", 30)
    assert "train_slot" in groups["train"]["rayStartParams"]["resources"]
    assert "eval_slot" in groups["evaluation"]["rayStartParams"]["resources"]


def test_the_two_manifests_describe_one_cluster() -> None:
    assert cluster_of("kuberay-raycluster.yaml") == cluster_of("kuberay-rayjob.yaml")


def test_their_commands_are_commands_of_this_program() -> None:
    found = [read("kuberay-rayjob.yaml")["spec"]["entrypoint"]]
    for name in LAUNCHER:
        found += [line for line in read(name)["worker_start_ray_commands"] if "chexworld" in line]
    assert len(found) == 1 + len(LAUNCHER)
    for line in found:
        parse(shlex.split(re.split("chexworld ", line, maxsplit=1)[1].split(" > ")[0]))


def test_hadolint_has_nothing_to_say_of_the_image_and_it_is_not_roots() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, FILES / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (FILES / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000"
    (base,) = [line for line in lines if line.startswith("FROM")]
    assert re.search(r":2\.60\.\d+-py311-gpu$", base)
