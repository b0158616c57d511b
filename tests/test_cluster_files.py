"""The cluster's files are what their readers take: Ray's launcher, KubeRay's schema, hadolint, this program."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
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


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_the_manifests(name: str) -> None:
    file = SCHEMAS / f"{KUBERAY[name]}.schema.json"
    if not file.exists():
        pytest.skip("KubeRay's schemas are not at hand (../shared/kuberay_schema)")
    schema = Draft7Validator(json.loads(file.read_text()))
    assert not [f"{list(error.path)}: {error.message}" for error in schema.iter_errors(read(name))]
    broken = read(name)
    broken["spec"]["enableInTreeAutoscalng"] = True
    assert list(schema.iter_errors(broken))


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
