"""What KubeRay takes, in our words, of the fields that the manifests in cluster/ use.

Any other field is refused, so that a misspelt one is found on every machine. A new field of a manifest is added here;
a test compares with KubeRay's own schema where that is at hand.
"""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
TRUTH: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITY: Schema = {"type": ["integer", "string"], "pattern": r"^\d+(\.\d+)?(m|[kMGT]i?)?$"}
QUANTITIES: Schema = {"type": "object", "additionalProperties": QUANTITY}


def record(*required: str, **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


CONTAINER = record(
    "name",
    "image",
    name=TEXT,
    image=TEXT,
    resources=record("limits", "requests", limits=QUANTITIES, requests=QUANTITIES),
    lifecycle=record("preStop", preStop=record("exec", exec=record("command", command=many(TEXT)))),
    volumeMounts=many(record("name", "mountPath", name=TEXT, mountPath=TEXT)),
)
POD = record(
    "containers",
    containers=many(CONTAINER),
    nodeSelector=TEXTS,
    serviceAccountName=TEXT,
    securityContext=record(runAsNonRoot=TRUTH, runAsUser=WHOLE, fsGroup=WHOLE),
    terminationGracePeriodSeconds=WHOLE,
    tolerations=many(record("operator", key=TEXT, operator=one_of("Exists"))),
    volumes=many(record("name", "emptyDir", name=TEXT, emptyDir=record(medium=one_of("Memory"), sizeLimit=QUANTITY))),
)
TEMPLATE = record("spec", spec=POD)
HEAD = record("template", rayStartParams=TEXTS, template=TEMPLATE)
WORKERS = record(
    "groupName",
    "minReplicas",
    "maxReplicas",
    "template",
    groupName=TEXT,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    replicas=WHOLE,
    labels=TEXTS,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
CLUSTER = record(
    "headGroupSpec",
    rayVersion=TEXT,
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=record(version=one_of("v1", "v2"), idleTimeoutSeconds=WHOLE),
    authOptions=record(mode=one_of("disabled", "token")),
    headGroupSpec=HEAD,
    workerGroupSpecs=many(WORKERS),
)
JOB = record(
    "entrypoint",
    "rayClusterSpec",
    entrypoint=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode"),
    backoffLimit=WHOLE,
    shutdownAfterJobFinishes=TRUTH,
    ttlSecondsAfterFinished=WHOLE,
    rayClusterSpec=CLUSTER,
)


def _kind(name: str, spec: Schema) -> Schema:
    return record(
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(name),
        metadata=record("name", name=TEXT),
        spec=spec,
    )


KINDS = {"RayCluster": _kind("RayCluster", CLUSTER), "RayJob": _kind("RayJob", JOB)}


def differences(ours: Schema, theirs: Schema, path: str = "") -> Iterator[str]:
    """Where the first schema takes what the second does not know: fields, types and words."""
    free = theirs == {"type": "object"}  # the metadata, which Kubernetes itself checks
    if "type" in theirs and theirs["type"] != ours["type"]:
        yield f"{path}: {ours['type']}, there {theirs['type']}"
    if extra := set(ours.get("enum", [])) - set(theirs.get("enum", ours.get("enum", []))):
        yield f"{path}: {sorted(extra)} is not taken there"
    if missing := set(theirs.get("required", [])) - set(ours.get("required", [])):
        yield f"{path}: {sorted(missing)} is required there"
    for name, field in ours.get("properties", {}).items():
        if name in theirs.get("properties", {}):
            yield from differences(field, theirs["properties"][name], f"{path}/{name}")
        elif not free:
            yield f"{path}/{name}: not known there"
    for inside in ("items", "additionalProperties"):
        if isinstance(ours.get(inside), dict):
            yield from differences(ours[inside], theirs[inside], f"{path}/{inside}")
