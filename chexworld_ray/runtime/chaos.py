"""`chexworld benchmark chaos`: a run on a small cluster of this machine to which everything happens.

The driver is a process of its own, started again when it ends with an error, as a scheduler would do; head and machines
are real ones of `ray.cluster_utils.Cluster`; the storage is a real S3 server behind a proxy that can be told to fail.
"""

import logging
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from chexworld_ray import recipes, storage
from chexworld_ray.benchmarks.chaos import KINDS, STAGING, Fault, count, schedule
from chexworld_ray.benchmarks.object_store import environment, proxy, s3_server
from chexworld_ray.errors import UserError
from chexworld_ray.phantoms.dataset import TABLE, write_phantoms
from chexworld_ray.reports.html import NAME as REPORT
from chexworld_ray.reports.html import write_report
from chexworld_ray.runtime.chaos_cluster import Driver, Machines, Weather
from chexworld_ray.runtime.chaos_faults import Campaign
from chexworld_ray.runtime.cluster import say
from chexworld_ray.runtime.seclusion import seclusion
from chexworld_ray.shards.manifest import load as load_manifest
from chexworld_ray.shards.plan import make_plan
from chexworld_ray.training import run
from chexworld_ray.training.checkpoint_files import STATE
from chexworld_ray.training.log import METRICS
from chexworld_ray.training.seen import lineage

NAME = "chaos"
BATCH = 10
CHECKPOINT_IMAGES = 100
RUN = [
    *("--recipe", "demo", "--model.image-size", "120", "--model.depth", "12", "--global-batch", str(BATCH)),
    *("--precision", "fp32", "--torch-threads", "1", "--micro-batch", "5", "--workers", "1:2", "--keep", "4"),
    *("--checkpoint-images", str(CHECKPOINT_IMAGES), "--log-batches", "1", "--notice-batches", "1"),
    *("--resize-seconds", "10", "--probe-images", "0", "--no-tensorboard", "--record-seen", "--max-failures", "100"),
    *("--segment-images", "2000"),
]
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}
STAGING_BYTES = 256 * 2**20
LONGEST = 10_000  # images for one fault, of the fastest machine while a storage hangs
PATIENCE = 300.0  # s for one fault


def chaos(seed: int, faults: int, out: str, kinds: Sequence[str], hang_seconds: float) -> dict[str, Any]:
    """Let `faults` faults of some kinds happen to a run, which is stopped when it is safe after the last of them.

    What was seen, said and measured is written to `out`. `hang_seconds`: how long a storage that hangs gives no answer.

    Raises:
        UserError: rclone is missing, no such kind, or the run did not come back from a fault.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)  # each new head is told of
    began, results = time.monotonic(), _local(out)
    if unknown := set(kinds) - set(KINDS):
        raise UserError(f"--kinds {', '.join(sorted(unknown))}: no such fault; there are {', '.join(KINDS)}")
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    staging = _small_disk(folder / "staging")
    try:
        (folder / "s3" / "bucket").mkdir(parents=True)
        with s3_server(folder / "s3") as port:
            weather = Weather()
            with proxy(port, weather.decide) as between:
                inside = RAY | seclusion() | environment(between.port) | {"RAY_TMPDIR": "/tmp"}
                inside |= {"TMPDIR": str(staging)} if staging is not None else {}
                os.environ.update(environment(port))
                possible = [kind for kind in kinds if kind != STAGING or staging is not None]
                faults_due = schedule(seed, faults, possible) if possible else []
                result = _campaign(seed, faults_due, folder, results, weather, inside, staging, hang_seconds)
    finally:
        if staging is not None:
            subprocess.run(["umount", str(staging)], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return result | {"seconds": time.monotonic() - began}


def _local(out: str) -> storage.Place:
    """Where results go: not to S3, whose address is soon that of the server here."""
    root = storage.place(out)
    if not root.is_local:
        raise UserError(f"--out {out}: a local folder, please; the storage of this run is an S3 server of its own")
    return root


def _small_disk(folder: Path) -> Path | None:
    """A disk of its own that can be filled without harm; None where this user may not mount one."""
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={STAGING_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mounting, check=False, capture_output=True).returncode:
        say("no disk can be mounted here: 'staging disk full' is left out")
        return None
    return folder


def _campaign(
    seed: int,
    faults: list[Fault],
    folder: Path,
    out: storage.Place,
    weather: Weather,
    env: dict[str, str],
    staging: Path | None,
    hang_seconds: float,
) -> dict[str, Any]:
    data = _data(folder, env)
    manifest = load_manifest(data)
    science = recipes.demo().science
    plan = make_plan([manifest], science.splits, science.projections, science.seed)
    epochs = -(-LONGEST * (len(faults) + 1) // plan.rows)
    command = ["pretrain", "--data", data, "--storage", "s3://bucket/runs", "--name", NAME, *RUN]
    driver = Driver([*command, "--epochs", str(epochs)], folder / "run.log", env)
    machines = Machines(env)
    backing = folder / "s3" / "bucket" / "runs" / NAME
    campaign = Campaign(machines, driver, weather, backing, staging, random.Random(seed), hang_seconds)
    told: list[dict[str, Any]] = []
    try:
        driver.start(machines.address)
        campaign.wait(lambda: campaign.safe() > 0 or driver.ended(None), "the first checkpoint", PATIENCE)
        for fault in faults:
            told.append(_strike(campaign, fault))
    finally:
        driver.stop()
        machines.stop()
        storage.write_bytes(out / "run.log", driver.log.read_bytes())
    record = run.load_url(f"s3://bucket/runs/{NAME}")
    with run.newest_whole(record.root.url) as newest:
        state = storage.read_json(storage.place(str(newest / STATE)))
    images = state["position"]
    seen = lineage(record.root, state["attempt"], images)
    os.makedirs(out.path, exist_ok=True)
    pq.write_table(seen, (out / "seen.parquet").path)
    storage.write_bytes(out / METRICS, storage.fetch(record.root / METRICS))
    write_report(record, (out / REPORT).url)
    return {
        "benchmark": "chaos",
        "seed": seed,
        "images": images,
        **count(plan, seen, images),
        "redone": sum(fault["redone"] for fault in told),
        "faults": told,
        "recovery_s": [fault["recovery_s"] for fault in told],
        "driver_starts": driver.starts,
    }


def _data(folder: Path, env: dict[str, str]) -> str:
    write_phantoms(storage.place(str(folder / "phantoms")), 96, 0, 96)
    arguments = ["ingest", str(folder / "phantoms"), "--labels", TABLE, "--out", "s3://bucket/data"]
    Driver(arguments, folder / "ingest.log", env).run()
    return "s3://bucket/data"


def _strike(campaign: Campaign, fault: Fault) -> dict[str, Any]:
    """Wait for the position, let it happen, and wait until work beyond it is safe in a checkpoint."""
    driver, machines = campaign.driver, campaign.machines
    due = driver.position() + fault.gap

    def over() -> bool:
        """Whether the run has ended; where its driver gave up it is started again."""
        if not driver.ended(machines.address):
            return False
        raise UserError(f"the run was over before: {fault.kind}")

    campaign.wait(lambda: over() or driver.position() >= due, f"{due} images", PATIENCE)
    redone = driver.redone()
    say(f"{fault.kind} at {driver.position()} images seen")
    after: Callable[[], None] = campaign.happen(fault.kind)
    began, before = campaign.struck

    def safe() -> bool:  # the next checkpoint may have been on its way before the fault
        return campaign.safe() > before + CHECKPOINT_IMAGES or over()

    campaign.wait(safe, f"a checkpoint after: {fault.kind}", PATIENCE)
    seconds = time.monotonic() - began
    after()
    say(f"safe again after {seconds:.0f} s")
    return {
        "kind": fault.kind,
        "position": before,
        "recovery_s": round(seconds, 1),
        "redone": driver.redone() - redone,
    }
