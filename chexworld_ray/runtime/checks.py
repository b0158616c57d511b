"""What can be wrong with one machine: versions, GPUs, storage, shared memory, space, clock; and what to do then."""

import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from chexworld_ray.errors import UserError
from chexworld_ray.models.device import has_bf16
from chexworld_ray.storage import Place, fetch, place, remove, write_bytes

RAY_SERIES = "2.60."
PROBE_BYTES = 4 * 2**20
SHARED_FRACTION = 0.3  # of the memory: what Ray gives to its object store
LEAST_SPACE = 5 * 10**9
LEAST_FILES = 4096
SLOW_MS = 500.0
WRONG_CLOCK = 60.0  # s; object stores refuse signatures that are 15 minutes off


@dataclass(frozen=True)
class Check:
    """One line of `chexworld doctor`."""

    name: str
    state: Literal["ok", "warn", "fail"]
    said: str
    advice: str = ""


def machine_checks(storage_url: str | None) -> list[Check]:
    """All checks of the machine that this runs on."""
    checks = [versions(), gpus(), shared_memory(), space(), open_files()]
    return [*checks, *(storage_checks(storage_url) if storage_url is not None else [])]


def versions() -> Check:
    """Python and the libraries; Ray's minor version must be the one that this program is made for."""
    found = {name: version(name) for name in ("torch", "ray", "timm", "pyarrow")}
    said = f"Python {platform.python_version()}, " + ", ".join(f"{name} {is_}" for name, is_ in found.items())
    if not found["ray"].startswith(RAY_SERIES):
        return Check("versions", "fail", said, f'pip install "ray[train,tune,data,default]=={RAY_SERIES}*" everywhere')
    return Check("versions", "ok", said)


def gpus() -> Check:
    """Whether torch sees the GPUs that the machine has."""
    names = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    if names:
        return Check("GPUs", "ok", ", ".join(names))
    if list(Path("/dev").glob("nvidia[0-9]*")):
        advice = "install a CUDA build of torch and a driver that fits; nvidia-smi must work in the same container"
        return Check("GPUs", "fail", "there are NVIDIA devices, and torch sees none", advice)
    arithmetic = "bf16" if has_bf16(torch.device("cpu")) else "float32"
    return Check("GPUs", "ok", f"none: training runs on CPU cores, in {arithmetic}")


def shared_memory() -> Check:
    """Ray's object store must fit into /dev/shm, or it falls back to disk."""
    if not Path("/dev/shm").is_dir():
        return Check("shared memory", "ok", "no /dev/shm on this system")
    has, wants = shutil.disk_usage("/dev/shm").total, SHARED_FRACTION * psutil.virtual_memory().total
    said = f"/dev/shm has {has / 1e9:.1f} GB"
    if has < wants:
        advice = (
            f"give it {wants / 1e9:.0f} GB (docker --shm-size, an emptyDir with medium Memory), or streams are slow"
        )
        return Check("shared memory", "warn", said, advice)
    return Check("shared memory", "ok", said)


def space() -> Check:
    """Room for Ray's session and for checkpoints on their way in."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < LEAST_SPACE:
        advice = f"free {LEAST_SPACE / 1e9:.0f} GB, or set TMPDIR and ray start --temp-dir"
        return Check("disk", "warn", f"{free / 1e9:.1f} GB free in {folder}", advice)
    return Check("disk", "ok", f"{free / 1e9:.0f} GB free in {folder}")


def open_files() -> Check:
    """Ray opens a connection to each worker."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_FILES:
        return Check("open files", "warn", f"at most {limit}", "ulimit -n 65536 before ray start")
    return Check("open files", "ok", "no limit" if limit == resource.RLIM_INFINITY else f"at most {limit}")


def storage_checks(url: str) -> Iterator[Check]:
    """Write, read and remove a file of 4 MB, and compare the clocks; latency is the time of a read of one byte."""
    try:
        root = place(url)
    except UserError as error:
        yield Check("storage", "fail", str(error))  # not the URL: it may hold a secret
        return
    try:
        yield from _probe(root, root / f"doctor-{uuid.uuid4().hex}")
    except (UserError, OSError) as error:
        said = " ".join(str(error).split())
        yield Check("storage", "fail", said if root.url in said else f"{root.url}: {said}", _advice(error))


def _advice(error: Exception) -> str:
    if isinstance(error, UserError) and ";" in str(error):
        return ""  # it says itself what to do
    return "make the folder or bucket, and let this user write there"


def _probe(root: Place, file: Place) -> Iterator[Check]:
    data = os.urandom(PROBE_BYTES)
    began = time.time()
    write_bytes(file, data)
    written = time.time()
    try:
        stamp = _stamp(root.fs.info(file.path))
        again = fetch(file)
        read = time.time()
        root.fs.cat_file(file.path, start=0, end=1)
        latency = 1e3 * (time.time() - read)
    finally:
        remove(file)
    rates = [PROBE_BYTES / 1e6 / max(seconds, 1e-6) for seconds in (written - began, read - written)]
    said = f"{root.url}: write {rates[0]:.0f} MB/s, read {rates[1]:.0f} MB/s, latency {latency:.0f} ms"
    if again != data:
        yield Check("storage", "fail", f"{root.url} gives back other bytes than were written", "use another store")
    elif latency > SLOW_MS:
        yield Check("storage", "warn", said, "keep storage and machines in one region")
    else:
        yield Check("storage", "ok", said)
    if stamp is None:
        return
    off = max(began - 1.0 - stamp, stamp - written - 1.0, 0.0)  # stores keep whole seconds
    if off > WRONG_CLOCK:
        yield Check("clock", "fail", f"{off:.0f} s off the store's", "start a time service (chrony, systemd-timesyncd)")
    else:
        yield Check("clock", "ok", "agrees with the store's" if off == 0.0 else f"{off:.0f} s off the store's")


def _stamp(info: dict[str, Any]) -> float | None:
    """When the store says that a file was written, seconds since 1970."""
    found = info.get("LastModified", info.get("mtime", info.get("updated")))
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    if isinstance(found, datetime):
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return float(found) if isinstance(found, int | float) else None
