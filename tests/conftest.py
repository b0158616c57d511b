"""Fixtures: a small phantom data set written without Ray, and the real radiographs where they are at hand."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow as pa
import pytest
from xdist.scheduler import LoadScopeScheduling

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

STATE = tempfile.TemporaryDirectory(prefix="chexworld-tests-")  # keys of ingests that tests leave unfinished

os.environ.update(
    XDG_STATE_HOME=STATE.name,
    OMP_NUM_THREADS="1",  # of small matrices a second thread gains nothing, and stalls where its core is busy
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_memory_monitor_refresh_ms="0",
    RAY_free_objects_batch_size="1",  # else dead objects wait for a second, and a memory curve shows their rate
    RAY_free_objects_period_milliseconds="1",
)
os.environ.pop("RAY_ADDRESS", None)

from bad_files import write_bad_files

from chexworld_ray.phantoms.dataset import TABLE, write_phantoms
from chexworld_ray.shards import manifest as manifests
from chexworld_ray.shards.identity import Pseudonyms
from chexworld_ray.shards.ingest import make_chunks
from chexworld_ray.shards.manifest import Manifest, Release
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.shards.source import Source
from chexworld_ray.shards.sources.registry import read_source
from chexworld_ray.shards.writer import write_chunk
from chexworld_ray.storage import place

SHARED = Path(__file__).parents[2] / "shared"


class OneRay(LoadScopeScheduling):
    """Tests that start Ray stay in one process, one at a time, for two at once make each other late; those of any other
    file together, for they share its fixtures.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.split("::")[0])
        return "ray" if file.parent.name == "runtime" else file.stem


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return OneRay(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest of these groups begin first."""
    items.sort(key=lambda item: item.path.parent.name != "runtime")


def write_data_set(source: Source, out: Path, settings: WriteSettings) -> Manifest:
    """What `runtime.ingest` does, one chunk after the other and without Ray."""
    root = place(str(out))
    key, start = Pseudonyms(b"a key for tests"), place(source.root)
    records = [
        write_chunk(f"01-{chunk.index:05d}", chunk.rows, start, source.columns, settings, key, root)
        for chunk in make_chunks(source, settings)
    ]
    files = [file for record in records for file in record.files]
    images = pa.concat_tables([record.images for record in records])
    release = Release("test", source.found, images.num_rows, {}, source.ignored)
    before = manifests.empty(root, settings.of_data())
    manifest = manifests.add_release(before, release, files, images, source.columns, None)
    manifests.publish(manifest)
    return manifest


@pytest.fixture(scope="session")
def write_set() -> Callable[[Source, Path, WriteSettings], Manifest]:
    return write_data_set


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(place(str(folder)), 96, 0, 96)
    return folder


@pytest.fixture(scope="session")
def phantom_set(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_data_set(
        read_source(str(phantom_folder), labels=TABLE),
        tmp_path_factory.mktemp("shards"),
        WriteSettings(row_group_images=16),
    )


@pytest.fixture(scope="session")
def radiographs() -> Path:
    folder = SHARED / "data" / "radiographs"
    if not folder.is_dir():
        pytest.skip("the real radiographs are not at hand (../shared/data/radiographs); phantoms are tested")
    return folder


@pytest.fixture(scope="session")
def made_bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    write_bad_files(folder)
    return folder


@pytest.fixture(scope="session")
def collected_bad_files() -> Path:
    folder = SHARED / "data" / "bad_input"
    if not folder.is_dir():
        pytest.skip("the collected bad files are not at hand (../shared/data/bad_input); made ones are tested")
    return folder
