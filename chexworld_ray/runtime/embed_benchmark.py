"""Features by Ray Data against the plain encoder in a loop over the same files, on one machine."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chexworld_ray import storage
from chexworld_ray.benchmarks.measure import machine
from chexworld_ray.config import Science
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import PROJECTIONS, embed, row_columns
from chexworld_ray.models.device import keep_freed_memory
from chexworld_ray.models.weights import untrained_encoder_bytes
from chexworld_ray.runtime.cluster import connect
from chexworld_ray.runtime.embed import SPLITS
from chexworld_ray.runtime.extraction import Extraction, device, extract, open_encoder
from chexworld_ray.shards.manifest import FileRecord, Manifest, load
from chexworld_ray.shards.parquet import read_footer
from chexworld_ray.shards.reader import read_row_group


def benchmark_embed(data_url: str, science: Science) -> dict[str, Any]:
    """One JSON object: images/s of the loop, of the whole job, and of the job between its first and its last part.

    Raises:
        UserError: the data set has fewer than three row groups, so that nothing lies between the first and the last.
    """
    manifest = load(data_url)
    files = manifest.select(SPLITS, PROJECTIONS)
    groups = sum(len(file.row_groups) for file in files)
    if groups < 3:
        raise UserError(f"{data_url}: {groups} row groups; three or more are needed (a larger data set)")
    images = sum(file.rows for file in files)
    with TemporaryDirectory(prefix="embed-") as name:
        folder = storage.place(name)
        pixels = (manifest.grey_mean, manifest.grey_std)
        encoder = folder / "encoder.safetensors"
        storage.write_bytes(encoder, untrained_encoder_bytes(science.model, science.seed, pixels))
        plain = _plain_loop(encoder.url, manifest, files)
        connect(manifest.root.url)
        began = time.perf_counter()
        extract([Extraction(encoder.url, None, folder / "parts", "features")], manifest, files)
        whole = images / (time.perf_counter() - began)
        parts = sorted(Path(name, "parts").iterdir(), key=lambda part: part.stat().st_mtime_ns)
        steady = _steady(parts)
    return {
        "benchmark": "embed",
        "machine": machine(device()),
        "images": images,
        "row_groups": groups,
        "plain_loop_images_per_second": round(plain, 6),
        "job_images_per_second": round(whole, 6),
        "steady_images_per_second": round(steady, 6),
        "steady_over_plain_loop": float(f"{steady / plain:.4g}"),
    }


def _plain_loop(encoder: str, manifest: Manifest, files: list[FileRecord]) -> float:
    """Images/s of read, decode and encode, one row group after the other; the first is not counted."""
    keep_freed_memory()
    backbone, columns = open_encoder(encoder, 0), (*row_columns(manifest), "image")
    began, count = 0.0, -1
    for file in files:
        for at in range(len(file.row_groups)):
            images = read_row_group((manifest.root / file.path).url, at, columns)["image"].to_pylist()
            embed(backbone, images, device())
            began, count = (time.perf_counter(), 0) if count < 0 else (began, count + len(images))
    return count / (time.perf_counter() - began)


def _steady(parts: list[Path]) -> float:
    """Images/s after the first part was written, while the processes that embed had started."""
    seconds = (parts[-1].stat().st_mtime_ns - parts[0].stat().st_mtime_ns) / 1e9
    return sum(map(_rows, parts[1:])) / seconds


def _rows(part: Path) -> int:
    with storage.opened(storage.place(str(part))) as file:
        return sum(read_footer(file, str(part)).groups)
