"""A data set's features in a folder: `embeddings.json`, the encoder, and a Parquet part for each row group.

Legend: N images, D width.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from chexworld_ray import storage
from chexworld_ray.config import from_dict
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import feature_matrix, read_features
from chexworld_ray.metrics.knn import similarities
from chexworld_ray.shards.manifest import FileRecord, Manifest
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.shards.row import Stopwatch, prepare
from chexworld_ray.shards.settings import WriteSettings
from chexworld_ray.trust import data_version

FACTS, ENCODER, PARTS = "embeddings.json", "encoder.safetensors", "parts"


@dataclass(frozen=True)
class Embeddings:
    """What embeddings.json says."""

    encoder: str
    """The run or the timm name that was asked for."""
    images_seen: int
    data: str
    """URL of the manifest."""
    data_version: str
    kind: str
    image_size: int | None
    version: int = 1
    """Of how features are made (`evaluation.features`); the first did not write it down."""


def part_name(file: FileRecord, index: int) -> str:
    """Name of the part of a row group."""
    return f"{file.path.removesuffix('.parquet')}-{index:03d}.parquet"


def write_facts(folder: storage.Place, facts: Embeddings) -> None:
    """Write embeddings.json."""
    storage.write_json(folder / FACTS, asdict(facts))


def read_facts(folder: storage.Place) -> Embeddings:
    """Read it.

    Raises:
        UserError: there is none, or it is of another version.
    """
    if not storage.exists(folder / FACTS):
        raise UserError(f"{folder.url}: no embeddings there (no {FACTS}); chexworld embed --out {folder.url}")
    facts = from_dict(Embeddings, storage.read_json(folder / FACTS), (folder / FACTS).url)
    data_version(facts.data_version, (folder / FACTS).url)
    return facts


@dataclass(frozen=True)
class Neighbour:
    """An image that is near."""

    similarity: float
    """Cosine of standardised features."""
    image_id: str
    told: str
    """Data set, split, and the labels that are 1."""
    image: bytes


def query_image(data: bytes, manifest: Manifest) -> bytes:
    """A file as ingest would have put it into these shards.

    Raises:
        Rejected: it can't become a radiograph.
    """
    settings = from_dict(WriteSettings, manifest.settings, manifest.url)
    return prepare(data, settings, Stopwatch()).encoded


def nearest(folder: storage.Place, manifest: Manifest, query_D: np.ndarray, count: int) -> list[Neighbour]:
    """The images whose features are nearest to a query's, nearest first.

    Raises:
        UserError: there are no parts yet.
    """
    names = [(file, index) for file in manifest.files for index in range(len(file.row_groups))]
    there = {part.name: part for part in storage.children(folder / PARTS)}
    kept = [(file, index) for file, index in names if part_name(file, index) in there]
    if not kept:
        raise UserError(f"{folder.url}: nothing embedded yet; the same chexworld embed goes on")
    tables = [read_features(there[part_name(file, index)]) for file, index in kept]
    features = [feature_matrix(table) for table in tables]
    if {part.shape[1] for part in features} != {len(query_D)}:
        raise UserError(f"{folder.url}: its parts are not of the width that its encoder gives; embed again")
    features_ND = np.concatenate(features)
    near = similarities(features_ND, query_D[None])[0]
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    found = []
    for at in np.argsort(-near)[:count]:
        part = int(np.searchsorted(starts, at, side="right")) - 1
        row, (file, index) = tables[part].slice(int(at - starts[part]), 1).to_pylist()[0], kept[part]
        url = (manifest.root / file.path).url
        image = read_row_group(url, index, ("image",))["image"][int(at - starts[part])].as_py()
        found.append(Neighbour(float(near[at]), row["image_id"], _told(row), image))
    return found


def _told(row: dict[str, Any]) -> str:
    labels: Sequence[str] = [
        name.removeprefix("label_") for name, value in row.items() if name.startswith("label_") and value == 1
    ]
    return ", ".join([row["dataset"], row["split"], *labels])
