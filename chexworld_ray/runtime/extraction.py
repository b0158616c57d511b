"""Features of an encoder by Ray Data, on CPUs or GPU actors: those of each row group go into a file of their own, once.

A job that was killed goes on with the row groups that have no file yet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import pyarrow as pa
import ray.data
import torch

from chexworld_ray import storage
from chexworld_ray.analysis.embeddings import part_name
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import embed, feature_table, row_columns
from chexworld_ray.models.backbone import Backbone, Size, read_backbone
from chexworld_ray.models.device import keep_freed_memory
from chexworld_ray.runtime.cluster import evaluation_slot, evaluation_slots, rows_told, say, total
from chexworld_ray.shards.decode import DamagedImage
from chexworld_ray.shards.manifest import FileRecord, Manifest
from chexworld_ray.shards.parquet import write_table
from chexworld_ray.shards.reader import read_row_group

Inputs = Literal["features", "tokens"]
GROUPS_PER_TASK = 8  # at most; one costs a fifth of a small encoder's speed (BENCHMARKS.md)


@dataclass(frozen=True)
class Extraction:
    """What is made of images, and the folder that it goes to."""

    encoder: str
    """URL of its file."""
    image_size: int | None
    """Side of the view (pixels); None: what the encoder was trained on."""
    folder: storage.Place
    kind: Inputs
    """features: mean over tokens; tokens: all of them."""


def extract(wanted: Sequence[Extraction], manifest: Manifest, files: Sequence[FileRecord]) -> None:
    """Features (or tokens) of every row group of some files that has none yet, in one pass of Ray Data.

    Raises:
        UserError: a task met one (a damaged shard), told as if it had happened here.
    """
    jobs = [job for one in wanted for job in _due(one, manifest, files)]
    if not jobs:
        return
    say(f"{wanted[0].kind}: {len(jobs)} row groups of {len(wanted)} encoders")
    gpu = total("GPU") > 0
    work: Any = _Extractor if gpu else _extract
    slots = evaluation_slots(gpu)
    # a task costs Ray Data what ten images cost; with four or more a slot none is left alone for long at the end
    group = min(max(len(jobs) // (4 * slots), 1), GROUPS_PER_TASK)
    blocks = [pa.Table.from_pylist(jobs[at : at + group]) for at in range(0, len(jobs), group)]
    whole = ray.data.from_arrow(blocks).map_batches(
        work,
        fn_kwargs={"columns": (*row_columns(manifest), "image"), "kind": wanted[0].kind},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        num_gpus=float(gpu),
        resources=evaluation_slot(),
        concurrency=min(slots, len(blocks)),
    )
    for _ in rows_told(whole.iter_rows()):
        pass


def _due(one: Extraction, manifest: Manifest, files: Sequence[FileRecord]) -> Iterator[dict[str, Any]]:
    done = {file.name for file in storage.children(one.folder)}
    for file in files:
        for index in range(len(file.row_groups)):
            part = part_name(file, index)
            if part not in done:
                yield {
                    "encoder": one.encoder,
                    "image_size": one.image_size or 0,
                    "url": (manifest.root / file.path).url,
                    "index": index,
                    "out": (one.folder / part).url,
                }


def device() -> torch.device:
    """Where an actor or trial computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _extract(block: pa.Table, columns: Sequence[str], kind: Inputs) -> pa.Table:
    """Write the parts of a block; what is wrong with a file comes back (`rows_told`)."""
    keep_freed_memory()
    return pa.table({"told": [_write_part(job, columns, kind) for job in block.to_pylist()]})


def _write_part(job: dict[str, Any], columns: Sequence[str], kind: Inputs) -> str:
    try:
        rows = read_row_group(job["url"], job["index"], columns)
        backbone = open_encoder(job["encoder"], job["image_size"])
        try:
            found = embed(backbone, rows["image"].to_pylist(), device(), tokens=kind == "tokens")
        except DamagedImage as error:
            raise UserError(
                f"{job['url']}: an image of row group {job['index']} can't be decoded ({error.detail}); "
                "see chexworld inspect --check"
            ) from None
        write_table(storage.place(job["out"]), feature_table(rows, found))
    except UserError as error:
        return str(error)
    return ""


class _Extractor:
    """An actor: Ray ends the process of a task that has had a GPU, and with it the open encoder."""

    def __call__(self, block: pa.Table, columns: Sequence[str], kind: Inputs) -> pa.Table:
        return _extract(block, columns, kind)


@lru_cache(maxsize=2)
def open_encoder(url: str, image_size: int) -> Backbone:
    """An encoder that is kept open; `image_size` 0: what it was trained on."""
    backbone = read_backbone(storage.fetch_named(storage.place(url)), url, Size(image=image_size or None))
    return backbone.requires_grad_(False).eval().to(device())
