"""A data set's features: once, those of the plain encoder, and a file's neighbours among them."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch

from chexworld_ray.config import RunSettings
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.features import embed
from chexworld_ray.models.backbone import Size, read_backbone
from chexworld_ray.reports.neighbours import neighbours_picture, neighbours_table
from chexworld_ray.runtime.embed import embed_data, neighbours
from chexworld_ray.runtime.embed_benchmark import benchmark_embed
from chexworld_ray.runtime.extraction import open_encoder
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.reader import read_row_group


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "theirs.pth"
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), file)
    return f"timm:test_vit@{file}"


def test_embeddings_without_their_encoder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.safetensors: no such file"):
        open_encoder(str(tmp_path / "encoder.safetensors"), 0)


@pytest.mark.slow
def test_features_are_those_of_the_encoder_and_a_file_is_its_own_neighbour(
    ray_here: None, theirs: str, phantom_set: Manifest, phantom_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "embeddings"
    count = embed_data(None, theirs, phantom_set.root.url, str(out), 48, tokens=False)
    parts = sorted((out / "parts").iterdir())
    assert count == sum(pq.read_metadata(part).num_rows for part in parts) == phantom_set.rows
    file = next(one for one in phantom_set.files if parts[0].name.startswith(one.path.removesuffix(".parquet")))
    rows = read_row_group((phantom_set.root / file.path).url, 0, ("image_id", "image"))
    table = pq.read_table(parts[0])
    assert table["image_id"].to_pylist() == rows["image_id"].to_pylist()
    backbone = read_backbone((out / "encoder.safetensors").read_bytes(), theirs, Size(image=48)).eval()
    wanted = embed(backbone, rows["image"].to_pylist(), torch.device("cpu"))
    assert np.allclose(np.array(table["features"].to_pylist()), wanted, atol=1e-5)

    kept = parts[1].stat().st_mtime_ns
    parts[0].unlink()
    embed_data(None, theirs, phantom_set.root.url, str(out), 48, tokens=False)
    assert pq.read_table(parts[0]) == table, "what was missing is made again"
    assert parts[1].stat().st_mtime_ns == kept, "what was there is not"
    with pytest.raises(UserError, match="other embeddings"):
        embed_data(None, theirs, phantom_set.root.url, str(out), 64, tokens=False)

    source = phantom_folder / "images" / "000007.png"
    query, found = neighbours(str(out), str(source), 3)
    assert found[0].image_id.endswith("000007.png")
    assert found[0].similarity == pytest.approx(1.0, abs=1e-4)
    assert found[0].image == query, "a query is cleaned as it was in ingest"
    assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)
    assert neighbours_picture(query, found)[:4] == b"\x89PNG"
    assert len(neighbours_table(found).splitlines()) == 3
    with pytest.raises(UserError, match="not an image"):
        neighbours(str(out), str(Path(__file__)), 3)
    with pytest.raises(UserError, match="no embeddings there"):
        neighbours(str(tmp_path), str(source), 3)


@pytest.mark.slow
def test_a_damaged_shard_is_one_line(ray_here: None, theirs: str, phantom_set: Manifest, tmp_path: Path) -> None:
    """Cut short; and with an image that is no JPEG, or one of a size that no ingest writes."""
    for name, spoil, words in (
        ("cut", None, "not a whole Parquet file"),
        ("text", b"no picture", "can't be decoded"),
        ("large", cv2.imencode(".jpg", np.zeros((12_000, 12_000), np.uint8))[1].tobytes(), "12000 x 12000 pixels"),
    ):
        data = Path(shutil.copytree(phantom_set.root.path, tmp_path / name))
        shard = data / phantom_set.files[0].path
        if spoil is None:
            shard.write_bytes(shard.read_bytes()[:-1000])
        else:
            table = pq.read_table(shard)
            at = table.schema.get_field_index("image")
            images = pa.array([spoil] * table.num_rows, table.schema.field(at).type)
            pq.write_table(table.set_column(at, table.schema.field(at), images), shard, row_group_size=16)
        with pytest.raises(UserError, match=words) as caught:
            embed_data(None, theirs, str(data), str(tmp_path / f"{name}-out"), 48, tokens=False)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_benchmark_counts_every_image(ray_here: None, phantom_set: Manifest, tiny: RunSettings) -> None:
    result = benchmark_embed(phantom_set.root.url, tiny.science)
    assert result["images"] == phantom_set.rows
    assert result["row_groups"] == sum(len(file.row_groups) for file in phantom_set.files)
    rates = [result[f"{name}_images_per_second"] for name in ("plain_loop", "job", "steady")]
    assert min(rates) > 0
    assert result["steady_over_plain_loop"] == pytest.approx(rates[2] / rates[0], rel=0.01)
