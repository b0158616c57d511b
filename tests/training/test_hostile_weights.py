"""Weights that somebody damaged, or made to do harm: one line, nothing written, nothing run, memory as their bytes."""

import io
import json
import pickle
import resource
import struct
import zipfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published import random_checkpoint, write_parity_folder
from safetensors.torch import save
from torch import Tensor

from chexworld_ray import load_encoder
from chexworld_ray.cli import main
from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.backbone import read_backbone, timm_bytes
from chexworld_ray.models.encoder import build_encoder
from chexworld_ray.models.published import read_published
from chexworld_ray.models.weights import encoder_bytes
from chexworld_ray.training.initial import model_of

SIZES = ModelSettings(image_size=32, patch_size=8, width=24, depth=2, heads=2, predictor_width=16, predictor_depth=1)
HEADER = {"model": asdict(SIZES), "mean": 0.5, "std": 0.2, "images_seen": 7}
MOST_MEMORY = 300 * 2**20  # bytes that all of this may take; each of these files asks for gigabytes
TENSORS = {key: value.contiguous() for key, value in build_encoder(SIZES, 0).vit.state_dict().items()}


class Harm:
    """What unpickling would run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def encoder_file(tensors: dict[str, Tensor] = TENSORS, **header: Any) -> bytes:
    return save(tensors, metadata={"chexworld_ray": json.dumps(HEADER | header)})


def with_model(**changes: Any) -> bytes:
    return encoder_file(model=asdict(SIZES) | changes)


def raw(header: object, tail: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + tail


def lie(shape: list[int], offsets: list[int]) -> bytes:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    return raw({"__metadata__": {"chexworld_ray": json.dumps(HEADER)}, "norm.weight": entry}, bytes(96))


SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "short": b"abc",
    "header longer than the file": raw({}, length=2**60),
    "header of negative length": raw({}, length=2**64 - 1),
    "list": raw([]),
    "deep": raw(b"[" * 50_000),
    "metadata is a list": raw({"__metadata__": {"chexworld_ray": "[]"}}),
    "metadata is deep": raw({"__metadata__": {"chexworld_ray": "[" * 50_000}}),
    "metadata of a number": raw({"__metadata__": 7}),
    "no model": raw({"__metadata__": {"chexworld_ray": "{}"}}),
    "model is a list": encoder_file(model=[]),
    "mean is text": encoder_file(mean="a"),
    "std is 0": encoder_file(std=0.0),
    "std is infinite": encoder_file(std=float("inf")),
    "images seen without end": encoder_file(images_seen=float("inf")),
    "width of a giant": with_model(width=39_996, heads=3),
    "depth of a giant": with_model(depth=100_000),
    "depth of 10^12": with_model(depth=10**12),
    "hidden width of a giant": with_model(mlp_width=10**9),
    "grid of a giant": with_model(image_size=800_000),
    "patch of 0": with_model(patch_size=0),
    "no heads": with_model(heads=0),
    "depth of 0": with_model(depth=0),
    "negative width": with_model(width=-24),
    "tensors missing": encoder_file({"norm.weight": TENSORS["norm.weight"]}),
    "one block missing": encoder_file({k: v for k, v in TENSORS.items() if not k.startswith("blocks.1.")}),
    "tensor too many": encoder_file(TENSORS | {"extra": torch.zeros(3)}),
    "block of a high number": encoder_file(TENSORS | {"blocks.999999999.norm1.weight": torch.zeros(24)}),
    "other shape": encoder_file(TENSORS | {"norm.weight": torch.zeros(25)}),
    "no positions": encoder_file({k: v for k, v in TENSORS.items() if k != "pos_embed"}),
    "shape lies": lie([10**6], [0, 96]),
    "10^12 numbers": lie([10**6, 10**6], [0, 4 * 10**12]),
    "dimensions that overflow": lie([2**62, 2**62], [0, 96]),
}


def torch_file(record: object, *, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(record, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def compressed(data: bytes) -> bytes:
    """The same parts, packed: a bomb."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as parts, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in parts.namelist():
            packed.writestr(name, parts.read(name))
    return buffer.getvalue()


def checkpoint(**tensors: object) -> dict[str, Any]:
    """A published one with a part that was changed."""
    found = random_checkpoint(SIZES, num_heads=2)
    return found | {"model": found["model"] | {name.replace("__", "."): value for name, value in tensors.items()}}


def pickled(marker: Path) -> dict[str, bytes]:
    huge = torch.zeros(1).expand(200_000, 200_000)
    return {
        "empty": b"",
        "text": b"hello",
        "zip of nothing": b"PK\x05\x06" + bytes(18),
        "runs code": torch_file({"model": Harm(marker)}),
        "runs code, old format": torch_file({"model": Harm(marker)}, old=True),
        "runs code, plain pickle": pickle.dumps(Harm(marker), protocol=4),
        "runs code in args": torch_file(checkpoint() | {"args": Harm(marker)}),
        "stride 0": torch_file(checkpoint(encoder__patch_embed__proj__weight=huge)),
        "stride 0, plain": torch_file({"model": {"patch_embed.proj.weight": huge}}),
        "compressed": compressed(torch_file(checkpoint(more=torch.zeros(4 * 2**20)))),
        "sparse": torch_file(checkpoint(encoder__norm__weight=torch.zeros(24).to_sparse())),
        "without memory": torch_file(checkpoint(encoder__norm__weight=torch.zeros(10**12, device="meta"))),
        "complex": torch_file(checkpoint(encoder__norm__weight=torch.zeros(24, dtype=torch.complex64))),
        "no tensor": torch_file(checkpoint(encoder__norm__weight="text")),
        "a list": torch_file([1, 2]),
        "numbers for names": torch_file({"model": {1: torch.zeros(1)}}),
        "flat patches": torch_file(checkpoint(encoder__patch_embed__proj__weight=torch.zeros(24))),
        "no patches": torch_file(checkpoint(encoder__patch_embed__proj__weight=torch.zeros(24, 3, 0, 0))),
        "a high block": torch_file(checkpoint(**{"encoder__blocks__99999999__norm1__weight": torch.zeros(24)})),
        "a high block of the predictor": torch_file(
            checkpoint(**{"predictor__predictor_blocks__99999999__norm1__weight": torch.zeros(16)})
        ),
        "heads of a list": torch_file(checkpoint() | {"args": Namespace(num_heads=[])}),
        "no end of heads": torch_file(checkpoint() | {"args": Namespace(num_heads=float("inf"))}),
        "cut": torch_file(checkpoint())[:-300],
    }


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[str, list[str]], None]:
    def one_line(name: str, words: list[str]) -> None:
        code, said = main(words), capsys.readouterr()
        assert (code, said.err.count("\n"), said.out) == (2, 1, ""), f"{name}: {words[0]} {code} {said.err[-600:]}"
        assert len(said.err) < 1000, name
        assert "Traceback" not in said.err, name

    return one_line


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_hostile_encoder_files_are_one_line(tmp_path: Path, refused: Callable[[str, list[str]], None]) -> None:
    out, file = tmp_path / "out", tmp_path / "x.safetensors"
    training = ["pretrain", "--data", str(tmp_path / "no"), "--storage", str(out), "--name", "n"]
    before = memory()
    for name, data in SAFETENSORS.items():
        file.write_bytes(data)
        refused(name, ["export", "--run", str(file), "--out", str(out)])
        refused(name, ["import", str(file), "--out", str(out)])
        refused(name, [*training, "--init", str(file)])
        for read in (load_encoder, model_of_file, lambda url: read_backbone(Path(url).read_bytes(), url), foreign):
            with pytest.raises(UserError):
                read(str(file))
    assert memory() - before < MOST_MEMORY
    assert [one.name for one in tmp_path.iterdir()] == ["x.safetensors"]
    file.write_bytes(encoder_bytes(TENSORS, SIZES, (0.5, 0.2), 7))
    assert load_encoder(str(file))[1].model == SIZES


def model_of_file(file: str) -> ModelSettings:
    return model_of(file, SIZES)


def foreign(file: str) -> bytes:
    """As `--encoder` reads it."""
    return timm_bytes(f"timm:test_vit@{file}")


def test_hostile_checkpoints_are_one_line(tmp_path: Path, refused: Callable[[str, list[str]], None]) -> None:
    out, file, marker = tmp_path / "out", tmp_path / "x.pth", tmp_path / "RUN"
    training = ["pretrain", "--data", str(tmp_path / "no"), "--storage", str(out), "--name", "n"]
    before = memory()
    for name, data in pickled(marker).items():
        file.write_bytes(data)
        refused(name, ["import", str(file), "--out", str(out)])
        refused(name, [*training, "--init", str(file)])
        refused(name, [*training, "--init", f"timm:vit_tiny_patch16_224@{file}"])
        with pytest.raises(UserError):
            foreign(str(file))
    refused("a folder", [*training, "--init", str(tmp_path)])
    refused("a folder", ["import", str(tmp_path), "--out", str(out)])
    assert memory() - before < MOST_MEMORY
    assert [one.name for one in tmp_path.iterdir()] == ["x.pth"], "something was run, or written"


def test_hostile_arrays_are_one_line_and_nothing_is_imported(
    tmp_path: Path, refused: Callable[[str, list[str]], None]
) -> None:
    folder, out, marker = tmp_path / "parity", tmp_path / "out", tmp_path / "RUN"
    folder.mkdir()
    write_parity_folder(folder, replace(SIZES, compat="chexworld"))
    good = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix == ".npz"}
    arrays = dict(np.load(io.BytesIO(good["batch.npz"])))

    def npz(**changes: Any) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **(arrays | changes))
        return buffer.getvalue()

    hostile = {
        "empty": b"",
        "cut": good["batch.npz"][:-99],
        "pickle": npz(image1=np.array([Harm(marker)], dtype=object)),
        "text": npz(image1=np.array(["a"])),
        "flat": npz(image1=np.zeros(3, np.float32)),
        "indices beyond": npz(masks_enc1=np.full_like(arrays["masks_enc1"], 10**6)),
        "other sizes": npz(image1=np.zeros((3, 1, 8, 8), np.float32)),
    }
    for name, data in hostile.items():
        for file in good:
            for put, content in (good | {file: data}).items():
                (folder / put).write_bytes(content)
            if file == "batch.npz" or name in ("empty", "cut", "pickle", "text"):
                words = ["import", str(folder / "checkpoint.pth.tar"), "--out", str(out), "--verify", str(folder)]
                refused(f"{name}, {file}", words)
    assert not out.exists()
    assert not marker.exists()


damage = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("flip"), st.floats(0, 0.02), st.integers(0, 255)),  # in headers
    st.tuples(st.just("insert"), st.floats(0, 1), st.integers(0, 255)),
)
WHOLE = {"safetensors": encoder_file(), "pth": torch_file(checkpoint()), "old": torch_file(checkpoint(), old=True)}


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(WHOLE)), harms=st.lists(damage, min_size=1, max_size=3))
def test_damage_anywhere_is_one_line_or_none(kind: str, harms: list[tuple[str, float, int]]) -> None:
    data = bytearray(WHOLE[kind])
    for how, part, value in harms:
        at = int(part * max(0, len(data) - 1))
        if how == "cut":
            del data[at:]
        elif how == "flip" and data:
            data[at] = value
        else:
            data.insert(at, value)
    read: Callable[[], object] = (
        (lambda: read_backbone(bytes(data), "x"))
        if kind == "safetensors"
        else (lambda: read_published(bytes(data), "x", None))
    )
    try:
        read()
    except UserError as error:
        assert str(error).startswith("x: ")  # being whole by luck is fine too
        assert "\n" not in str(error)
