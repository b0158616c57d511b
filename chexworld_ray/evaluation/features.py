"""Frozen features: one mean-pooled vector an image, with what a probe needs to know of the image."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.weights import EncoderInfo, pooled_features
from chexworld_ray.shards.parquet import read_table
from chexworld_ray.storage import Place, children
from chexworld_ray.views.batch import whole_view

KEYS = ("image_id", "dataset", "patient_id", "split")


def embed(encoder: Encoder, info: EncoderInfo, images: Iterable[bytes], device: torch.device) -> np.ndarray:
    """Mean over tokens after the final norm, NxD float32."""
    views_NSS = np.stack([whole_view(data, info.model.image_size) for data in images])
    return pooled_features(encoder, info, views_NSS, device)


def feature_table(rows: pa.Table, features_ND: np.ndarray) -> pa.Table:
    """Keys, labels and features of some rows of a shard."""
    names = [*KEYS, *(name for name in rows.column_names if name.startswith("label_"))]
    flat = pa.array(features_ND.reshape(-1).astype(np.float32))
    return rows.select(names).append_column("features", pa.FixedSizeListArray.from_arrays(flat, features_ND.shape[1]))


@dataclass(frozen=True)
class FeatureSet:
    """Features of one dataset (source) in one split. `labels`: name → values, NaN where unknown."""

    features_ND: np.ndarray
    patients: list[str]
    image_ids: list[str]
    labels: dict[str, np.ndarray]


def load_features(folder: Place, dataset: str) -> dict[str, FeatureSet]:
    """split → features, for one dataset, from the part files of a folder."""
    tables = []
    for file in children(folder):
        table = read_table(file)
        tables.append(table.filter(pa.array([name == dataset for name in table["dataset"].to_pylist()], pa.bool_())))
    table = pa.concat_tables(tables, promote_options="default").sort_by("image_id")
    splits = np.array(table["split"].to_pylist(), object)
    return {split: _feature_set(table.filter(pa.array(splits == split))) for split in sorted(set(splits))}


def _feature_set(table: pa.Table) -> FeatureSet:
    column = table["features"].combine_chunks()
    features_ND = column.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)
    labels = {
        name.removeprefix("label_"): table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        for name in table.column_names
        if name.startswith("label_")
    }
    return FeatureSet(features_ND, table["patient_id"].to_pylist(), table["image_id"].to_pylist(), labels)
