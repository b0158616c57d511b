"""Many images: memory stays flat, nothing is spilled, and a plan costs next to nothing."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from chexworld_ray.benchmarks.plan import large_manifest
from chexworld_ray.config import Science
from chexworld_ray.phantoms.dataset import make_phantom
from chexworld_ray.runtime.board import Board
from chexworld_ray.runtime.memory import MemoryCurve
from chexworld_ray.runtime.segments import bytes_ahead
from chexworld_ray.runtime.stream import StreamSettings, read_shares
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.decode import encode_grey_jpeg
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import make_plan
from chexworld_ray.shards.schema import Columns
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.writer import write_file
from chexworld_ray.storage import place


def write_rows(folder: Path, images: int) -> Manifest:
    """A data set of `images` rows over a few phantoms' bytes."""
    root = place(str(folder))
    jpegs = [encode_grey_jpeg(make_phantom(0, number, 160).image_HW, 95) for number in range(16)]
    sketch = large_manifest(root, images, WriteSettings())
    files, number = [], 0
    for file in sketch.files:
        rows = [
            {
                "image_id": f"{number + at:08d}",
                "image": jpegs[(number + at) % len(jpegs)],
                "height": 160,
                "width": 160,
                "dataset": "large",
                "patient_id": f"{number + at:08d}",
                "view": "frontal",
                "split": "train",
                "source_path": f"{number + at}",
                "sha256": "",
                "flags": [],
            }
            for at in range(file.rows)
        ]
        table = pa.Table.from_pylist(rows, schema=Columns().schema())
        files.append(write_file(root, file.path, table, "train", "frontal", 128))
        number += file.rows
    manifest = replace(sketch, files=files, columns=Columns(), pixel_sums=(1.0, 0.5, 0.3))
    manifests.publish(manifest)
    return manifest


def pause(curve: MemoryCurve, least: float) -> None:
    """Until the object store holds something, and has been the same for two seconds: nothing more is read."""
    while len(set(curve.store[-5:])) != 1 or curve.store[-1] < least:
        time.sleep(0.5)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "images", [pytest.param(20_000, marks=pytest.mark.slow), pytest.param(100_000, marks=pytest.mark.nightly)]
)
def test_streaming_leaves_memory_flat_and_spills_nothing(images: int, ray_here: None, tmp_path: Path) -> None:
    plan = make_plan([write_rows(tmp_path, images)], ("train",), ("frontal",), 0)
    total = -(-images // 64) * 64
    settings = StreamSettings(plan, Science(global_batch=64), total, images // 320 * 64, 1, 1, 0, "scale")
    ahead = bytes_ahead(plan, 64, 1)
    assert ahead < 0.25 * 300 * 2**20, "else Ray Data's own half of the object store would hide it"
    seen = set()
    with MemoryCurve() as curve:
        for number, block in enumerate(read_shares(settings, 0, Board.remote())):
            if number == 0:
                pause(curve, ahead / 4)
            seen.update(block["image_id"].to_pylist())
    assert len(seen) == images
    assert curve.spilled == 0
    half = len(curve.private) // 2
    warm, later = curve.private[half // 2 : half], curve.private[half:]
    assert len(warm) > 5
    assert max(later) < 1.15 * max(warm), (max(warm), max(later))
    assert max(curve.store) < 1.1 * ahead


def test_a_million_images_are_planned_in_little_memory(tmp_path: Path) -> None:
    manifests.publish(large_manifest(place(str(tmp_path)), 1_000_000, WriteSettings()))
    code = (
        "import re, sys\n"
        "from chexworld_ray.shards.manifest import load\n"
        "from chexworld_ray.shards.plan import make_plan\n"
        "plan = make_plan([load(sys.argv[1])], ('train',), ('frontal',), 0)\n"
        "print(sum(len(plan.window_order(window)) for window in plan.epoch_windows(0)))\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    planned, kilobytes = map(int, done.stdout.split())
    assert planned == 1_000_000
    assert kilobytes < 500_000
