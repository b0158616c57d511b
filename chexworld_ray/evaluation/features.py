"""Frozen features: one mean-pooled vector an image, or all its tokens, with what a probe needs to know of the image.

Legend: N images, S side of a view, T tokens, D width.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.examples import Examples
from chexworld_ray.models.backbone import Backbone
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.parquet import read_table, tables
from chexworld_ray.shards.reader import read_row_group
from chexworld_ray.shards.schema import column_fields
from chexworld_ray.storage import Place
from chexworld_ray.views.batch import whole_view

VERSION = 1  # raise it where an encoder gives other features of an image than before: its view, the mean over tokens
KEYS = ("image_id", "dataset", "patient_id", "split")
SHOT = "meta_shot_"  # a published few-shot draw
PROJECTIONS = ("frontal", "unknown")
BATCH = 64
View = Callable[[bytes, int], np.ndarray]
"""Encoded image, side S → uint8 SxS."""


@torch.inference_mode()
def embed(
    backbone: Backbone, images: Sequence[bytes], device: torch.device, *, tokens: bool = False, view: View = whole_view
) -> np.ndarray:
    """Mean over tokens after the final norm, NxD float32, or the tokens themselves, NxTxD float16."""
    parts = []
    for start in range(0, len(images), BATCH):
        views_NSS = np.stack([view(data, backbone.image_size) for data in images[start : start + BATCH]])
        found = backbone(torch.from_numpy(views_NSS).to(device))
        parts.append((found.half() if tokens else found.mean(dim=1)).cpu())
    return torch.cat(parts).numpy()


def row_columns(manifest: Manifest) -> tuple[str, ...]:
    """What evaluation reads of a row beside its image and masks."""
    shots = (f"meta_{name}" for name, _ in manifest.columns.meta if f"meta_{name}".startswith(SHOT))
    return (*KEYS, *(f"label_{name}" for name in manifest.labels), *shots)


def feature_table(rows: pa.Table, features: np.ndarray) -> pa.Table:
    """Keys, labels, draws and features of some rows of a shard; tokens are laid out one after the other."""
    names = [name for name in rows.column_names if name in KEYS or name.startswith(("label_", SHOT))]
    flat = pa.array(features.reshape(-1))
    table = rows.select(names).append_column("features", pa.FixedSizeListArray.from_arrays(flat, features[0].size))
    return table.replace_schema_metadata({"tokens": str(features.shape[1] if features.ndim == 3 else 0)})


def read_features(file: Place) -> pa.Table:
    """A `feature_table` that was written to a file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    table = read_table(file, _form)
    widths = pc.unique(pc.list_value_length(table["features"])).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
    told = (table.schema.metadata or {}).get(b"tokens", b"0")
    tokens = int(told) if re.fullmatch(rb"\d{1,6}", told) else -1
    if len(widths) > 1 or tokens < 0 or any(not width or width % (tokens or 1) for width in widths):
        raise UserError(f"{file.url}: column 'features' holds no {told.decode(errors='replace')} tokens of one width")
    return table


def _form(stored: pa.Schema) -> pa.Schema:
    others = [name for name in stored.names if name.startswith(("label_", SHOT))]
    half = "features" in stored.names and stored.field("features").type == pa.list_(pa.float16())
    values = pa.list_(pa.float16() if half else pa.float32())
    return pa.schema([*column_fields([*KEYS, *others], stored), pa.field("features", values, nullable=False)])


def feature_matrix(table: pa.Table) -> np.ndarray:
    """The features of a `feature_table`, a row an image; tokens one after the other."""
    flat = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(table.num_rows, -1)


def load_features(folder: Place, dataset: str) -> dict[str, Examples]:
    """split → examples with features, of one data set, from the part files of a folder; none where there are none."""
    found = read_parts(tables(folder))
    if found is None:
        return {}
    return _by_split(_of(found, dataset), int((found.schema.metadata or {}).get(b"tokens", b"0")), ())


def read_parts(files: Sequence[Place]) -> pa.Table | None:
    """The features of several files, one after the other; None of no file.

    Raises:
        UserError: a file is damaged, or has another number or width of tokens than the first.
    """
    found = [read_features(file) for file in files]
    if not found:
        return None
    for file, table in zip(files, found, strict=True):
        if _shape(table) not in ((0, 0), _shape(found[0])):
            raise UserError(f"{file.url}: its features are not of the width that those of {files[0].name} have")
    return pa.concat_tables(found, promote_options="default")


def _shape(table: pa.Table) -> tuple[int, int]:
    """Tokens (0: their mean) and numbers a row; (0, 0) without rows."""
    if not table.num_rows:
        return 0, 0
    return int((table.schema.metadata or {}).get(b"tokens", b"0")), len(table["features"][0])


def load_images(manifest: Manifest, dataset: str, splits: Sequence[str], organs: Sequence[str]) -> dict[str, Examples]:
    """split → examples with encoded images and masks, of one data set, read from its shards."""
    columns = (*row_columns(manifest), "image", *(f"mask_{organ}" for organ in organs))
    parts = []
    for file in manifest.select(tuple(splits), PROJECTIONS):
        if dataset in file.datasets:
            url = (manifest.root / file.path).url
            parts += [_of(read_row_group(url, at, columns), dataset) for at in range(len(file.row_groups))]
    return _by_split(pa.concat_tables(parts), 0, organs) if parts else {}


def _of(table: pa.Table, dataset: str) -> pa.Table:
    return table.filter(pa.array([name == dataset for name in table["dataset"].to_pylist()], pa.bool_()))


def _by_split(table: pa.Table, tokens: int, organs: Sequence[str]) -> dict[str, Examples]:
    splits = np.array(table["split"].to_pylist(), object)
    found = {}
    for split in sorted(set(splits)):
        part = table.filter(pa.array(splits == split))
        found[split] = _examples(part.sort_by("image_id"), tokens, organs)
    return found


def _examples(table: pa.Table, tokens: int, organs: Sequence[str]) -> Examples:
    def listed(prefix: str) -> list[str]:
        return [name for name in table.column_names if name.startswith(prefix)]

    features = None
    if "features" in table.column_names:
        features = feature_matrix(table)
        features = features.reshape((table.num_rows, tokens, -1)) if tokens else features
    return Examples(
        table["image_id"].to_pylist(),
        table["patient_id"].to_pylist(),
        {
            name.removeprefix("label_"): table[name].to_numpy(zero_copy_only=False).astype(np.float64)
            for name in listed("label_")
        },
        features,
        table["image"].to_pylist() if "image" in table.column_names else [],
        {organ: table[f"mask_{organ}"].to_pylist() for organ in organs},
        {name.removeprefix(SHOT): table[name].to_pylist() for name in listed(SHOT)},
    )
