"""A large data set without its pixels: what a plan of an epoch costs, and what ingest keeps of each row."""

import tempfile
import time
from typing import Any

import torch

from chexworld_ray.benchmarks.measure import machine, memory_bytes, peak_bytes, reset_peak
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.ingest import make_chunks
from chexworld_ray.shards.manifest import Manifest, Release
from chexworld_ray.shards.plan import make_plan
from chexworld_ray.shards.records import IMAGE_SCHEMA, FileRecord
from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source, SourceRow, pack
from chexworld_ray.storage import Place, place

LABELS = tuple(f"finding_{number}" for number in range(14))


def large_manifest(root: Place, images: int, settings: WriteSettings) -> Manifest:
    """A manifest of `images` training rows in full files; nothing but the manifest is written."""
    files = []
    for index, start in enumerate(range(0, images, settings.file_images)):
        rows = min(settings.file_images, images - start)
        groups = [min(settings.row_group_images, rows - at) for at in range(0, rows, settings.row_group_images)]
        counts = {"large": {name: {"0": rows // 2, "1": rows - rows // 2} for name in LABELS}}
        name = f"train-frontal-01-{index:05d}.parquet"
        files.append(
            FileRecord(name, 60_000 * rows, rows, groups, "train", "frontal", 64 * "0", {"large": rows}, counts)
        )
    release = Release("large", images, images, {}, {})
    before = manifests.empty(root, {})
    return manifests.add_release(before, release, files, IMAGE_SCHEMA.empty_table(), Columns(LABELS), None)


def large_source(images: int) -> Source:
    """`images` rows with labels and patients, as a large adapter hands them in."""
    packed = [
        pack(
            SourceRow(
                image_id=f"{number:08x}-d9b29e7a-1ae8a2a9-5e4ce6d4",
                path=f"files/p{number // 8000:02d}/p{number // 4:08d}/s{number // 2:08d}/{number:08x}.jpg",
                dataset="large",
                patient_id=f"{number // 4:08d}",
                view="AP",
                labels={name: float((number + at) % 2) for at, name in enumerate(LABELS)},
                published=True,
            )
        )
        for number in range(images)
    ]
    return Source("/nowhere", packed, Columns(LABELS))


def benchmark_plan(images: int) -> dict[str, Any]:
    """One JSON object: seconds and memory of loading a manifest and planning an epoch, and of an ingest's rows."""
    device = torch.device("cpu")
    settings = WriteSettings()
    with tempfile.TemporaryDirectory() as name:
        manifests.publish(large_manifest(place(name), images, settings))
        before = memory_bytes(device) or 0
        reset_peak(device)
        began = time.perf_counter()
        plan = make_plan([manifests.load(name)], ("train",), ("frontal",), 0)
        ordered = sum(len(plan.window_order(window)) for window in plan.epoch_windows(0))
        planning = time.perf_counter() - began
        plan_bytes = (peak_bytes(device) or 0) - before
    assert ordered == images
    before = memory_bytes(device) or 0
    reset_peak(device)
    began = time.perf_counter()
    source = large_source(images)
    packing = time.perf_counter() - began
    began = time.perf_counter()
    chunks = make_chunks(source, settings)
    chunking = time.perf_counter() - began
    return {
        "benchmark": "plan",
        "machine": machine(device),
        "images": images,
        "row_groups": len(plan.groups),
        "plan_seconds": round(planning, 3),
        "plan_peak_bytes": plan_bytes,
        "ingest_rows_pack_seconds": round(packing, 2),
        "ingest_rows_chunk_seconds": round(chunking, 2),
        "ingest_rows_peak_bytes": (peak_bytes(device) or 0) - before,
        "ingest_rows_bytes_to_workers": sum(len(chunk.squeeze()) for chunk in chunks),
    }
