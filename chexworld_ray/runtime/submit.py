"""`chexworld submit`: a command of this program as a job of a cluster, with the code that runs here, logs followed."""

import argparse
import asyncio
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import chexworld_ray
from chexworld_ray.addresses import masked, refuse_secrets
from chexworld_ray.errors import UserError
from chexworld_ray.runtime.cluster import say

LARGEST_UPLOAD = 50 * 10**6  # bytes: the package has one, and Ray keeps what is uploaded in the head's memory
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PURPOSE = "chexworld"
ENDED = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}


def submit(words: Sequence[str], address: str | None, *, wait: bool) -> int:
    """Run `chexworld WORDS…` as a job; a job with the same purpose that still runs is followed instead.

    A cluster shows the command of a job to whoever may look: none is sent with a secret. Logs go to stdout.
    Returns the exit code: 0 where the job succeeded, or was not waited for.

    Raises:
        UserError: a word carries a secret, the cluster can't be reached or wants a token, the upload is too large, or a
            job with the same purpose runs with other arguments.
    """
    for word in [*words, address or ""]:
        refuse_secrets(word)
    url = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    entrypoint = shlex.join(["python", "-m", "chexworld_ray", *words])
    try:
        client = JobSubmissionClient(url)
        running = _running(client, _purpose(words))
        if running is not None and running.entrypoint != entrypoint:
            raise UserError(
                f"{running.submission_id} does this with other arguments: {running.entrypoint}; follow it with the "
                f"same ones, or end it: ray job stop --address {url} {running.submission_id}"
            )
        name = running.submission_id if running is not None else _start(client, entrypoint, _purpose(words))
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        raise UserError(_told(url, error)) from None
    assert name is not None
    say(f"{name} {'runs already' if running is not None else 'submitted'}: {entrypoint}")
    if not wait:
        return 0
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # how the connection was closed
    try:
        return asyncio.run(_follow(client, name))
    except KeyboardInterrupt:
        say(f"{name} goes on; the same command follows it again, ray job stop --address {url} {name} ends it")
        return 0


def _purpose(words: Sequence[str]) -> str:
    """What two jobs must not do at the same time: a run's name, or else the command itself."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--storage", "--name"):
        peek.add_argument(option)
    known = peek.parse_known_args(list(words[1:]))[0]
    return f"{words[0]} {known.storage}/{known.name}" if words[0] == "pretrain" else shlex.join(words)


def _running(client: JobSubmissionClient, purpose: str) -> JobDetails | None:
    jobs = [job for job in client.list_jobs() if (job.metadata or {}).get(PURPOSE) == purpose]
    return next((job for job in jobs if job.status not in ENDED), None)


def _start(client: JobSubmissionClient, entrypoint: str, purpose: str) -> str:
    """Upload this program's own code, and start. No resources are asked for: so the driver stays on the head."""
    package = Path(chexworld_ray.__file__).parent
    with tempfile.TemporaryDirectory(prefix="upload-") as folder:
        copy = Path(folder) / package.name
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        sizes = {file: file.stat().st_size for file in copy.rglob("*") if file.is_file()}
        size = sum(sizes.values())
        if size > LARGEST_UPLOAD:
            largest = max(sizes, key=lambda file: sizes[file])
            raise UserError(
                f"{package} has {size / 1e6:.0f} MB, at most {LARGEST_UPLOAD / 1e6:.0f} MB are uploaded; what does not "
                f"belong there? The largest file is {largest.relative_to(folder)} ({sizes[largest] / 1e6:.0f} MB)"
            )
        say(f"uploading {size / 1e6:.1f} MB of code ({len(sizes)} files), nothing else")
        return client.submit_job(
            entrypoint=entrypoint, runtime_env={"working_dir": folder}, metadata={PURPOSE: purpose}
        )


async def _follow(client: JobSubmissionClient, name: str) -> int:
    async for text in client.tail_job_logs(name):
        sys.stdout.write(text)
        sys.stdout.flush()
    info = client.get_job_info(name)
    if info.status == JobStatus.SUCCEEDED:
        say(f"{name} succeeded")
        return 0
    said = (info.message or "").strip().splitlines()
    say(f"{name} {info.status.value.lower()}" + (f": {said[0]}" if said else "") + "; the same command goes on")
    return 1


def _told(url: str, error: Exception) -> str:
    said, url = " ".join(masked(str(error)).split()), masked(url)
    if "token" in said.lower() or "401" in said or "403" in said:
        return f"{url} wants a token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH), the head's own"
    return f"{url}: no Ray dashboard answers there ({said[:200]}); --address http://HEAD:8265, or forward the port"
