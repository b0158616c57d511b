"""`--init`: where weights start, when not from the seed. Also the record of an imported checkpoint."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from chexworld_ray.config import ModelSettings, ObjectiveSettings, Science, to_dict
from chexworld_ray.errors import UserError
from chexworld_ray.models.backbone import PREFIX
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.fold import BIAS, POSITIONS, WEIGHT, PatchEmbedding, resample, rescale
from chexworld_ray.models.published import Published, read_published
from chexworld_ray.models.tensors import check_encoder, check_predictor, read_safetensors
from chexworld_ray.models.timm_weights import read_timm
from chexworld_ray.models.weights import is_encoder_file, read_encoder
from chexworld_ray.storage import exists, fetch_named, place, read_json, write_json
from chexworld_ray.training import checkpoint, run
from chexworld_ray.training.checkpoint_files import PREDICTOR, folder_name, position_of
from chexworld_ray.training.parallel import load_whole, whole
from chexworld_ray.training.parity import build
from chexworld_ray.training.state import TrainState

T = TypeVar("T")
PREDICTOR_FIELDS = ("width", "heads", "predictor_width", "predictor_depth", "compat", "scale_code")
UNIT_PIXELS = (0.0, 1.0)  # grey on [0, 1], not normalised


@dataclass(frozen=True)
class Start:
    """Weights to start from: tensors under timm's keys, for grey pixels normalised by `pixels` (mean, std)."""

    model: ModelSettings
    pixels: tuple[float, float]
    encoder: dict[str, Tensor]
    target: dict[str, Tensor]
    predictor: dict[str, Tensor] | None


def read_start(init: str, base: ModelSettings) -> Start:
    """What `--init` names: a run, a checkpoint folder, an encoder file, or a timm ViT.

    `base` gives what the source does not determine (a timm file: image size and predictor).

    Raises:
        UserError: nothing of the kind is there, or it does not fit.
    """
    if init.startswith(PREFIX):
        model, tensors = read_timm(init, base)
        return Start(model, UNIT_PIXELS, tensors, tensors, None)
    root = place(init)
    if position_of(root.name) is not None or exists(root / run.CONFIG):
        with run.newest_whole(init) as folder:
            (encoder, info), (target, _) = (
                read_encoder((folder / f"{name}.safetensors").read_bytes(), init) for name in ("encoder", "target")
            )
            predictor = read_safetensors(folder / PREDICTOR, f"{init} ({PREDICTOR})")
            check_predictor(predictor, info.model, f"{init} ({PREDICTOR})")
        tensors = target.vit.state_dict()
        check_encoder(tensors, info.model, f"{init} (target)")
        return Start(info.model, (info.mean, info.std), encoder.vit.state_dict(), tensors, predictor)
    data = fetch_named(root, told=f"--init {init} (no run or checkpoint)")
    if not root.is_local or is_encoder_file(data):
        encoder, info = read_encoder(data, init)
        tensors = encoder.vit.state_dict()
        return Start(info.model, (info.mean, info.std), tensors, tensors, None)
    model, tensors = read_timm(root.path, base)
    return Start(model, UNIT_PIXELS, tensors, tensors, None)


def absolute(init: str) -> str:
    """`init` as every worker and every later start finds it, wherever it stands: local paths from the root."""
    if init.startswith(PREFIX):
        name, at, file = init.partition("@")
        return name + at + (place(file).url if file else "")
    return place(init).url


def start_from(state: TrainState, science: Science, pixels: tuple[float, float]) -> None:
    """Put the weights that `science.init` names into a fresh state; they see the same pixels as before.

    The predictor is taken too where its sizes are the same, else it starts from the seed.

    Raises:
        UserError: sizes of the encoder differ.
    """
    assert science.init is not None
    start = read_start(science.init, science.model)
    _refuse_other_sizes(start.model, science)
    for encoder, tensors in ((state.model.encoder, start.encoder), (state.target, start.target)):
        _load(encoder, tensors, start, science.model, pixels)
    same = all(_value(start.model, name) == _value(science.model, name) for name in PREDICTOR_FIELDS)
    if start.predictor is not None and same:
        load_whole(state.model.predictor, start.predictor)


def begin(state: TrainState, science: Science, pixels: tuple[float, float]) -> checkpoint.Snapshot:
    """`start_from`, and what the run keeps of it beside its checkpoints; where it is sharded every worker must
    call.

    Raises:
        UserError: sizes of the encoder differ.
    """
    start_from(state, science, pixels)
    weights = checkpoint.weights_of(state.model, state.target)
    return checkpoint.Snapshot(weights, None, science.model, pixels, {"position": 0})


def _load(
    encoder: Encoder, tensors: dict[str, Tensor], start: Start, model: ModelSettings, pixels: tuple[float, float]
) -> None:
    grey = rescale(PatchEmbedding(tensors[WEIGHT], tensors[BIAS]), start.pixels, pixels)
    tensors = tensors | {WEIGHT: grey.weight, BIAS: grey.bias}
    tensors.setdefault(POSITIONS, whole(encoder.vit.state_dict()[POSITIONS]))
    load_whole(encoder.vit, resample(tensors, model.grid, model.patch_size, swapped=model.compat != "none"))


def _value(model: ModelSettings, name: str) -> object:
    return to_dict(model)[name]


def _refuse_other_sizes(theirs: ModelSettings, science: Science) -> None:
    for name in ("width", "depth", "heads", "mlp_width"):
        if _value(theirs, name) != _value(science.model, name):
            raise UserError(
                f"--init {science.init}: its encoder has {name} {_value(theirs, name)}, "
                f"--model.{name.replace('_', '-')} is {_value(science.model, name)}; leave that setting out"
            )


def import_checkpoint(
    url: str, out_url: str, heads: int | None, check: Callable[[Published], T] | None = None
) -> tuple[Published, T | None]:
    """Write a published checkpoint as a run of ours at `out_url`, with one checkpoint at position 0.

    `check` looks at it before anything is written; what it found comes back too.

    Raises:
        UserError: the file is not one, or another run stands at `out_url`.
    """
    source, out = place(url), place(out_url)
    data = fetch_named(source, told=url)
    published = read_published(data, url, heads)
    checked = None if check is None else check(published)
    digest = hashlib.sha256(data).hexdigest()
    if exists(out / run.CONFIG) and read_json(out / run.CONFIG).get("imported", {}).get("sha256") != digest:
        raise UserError(f"{out_url}: another run stands there; choose another --out")
    world, target = build(published)
    science = Science(model=published.model, objective=ObjectiveSettings(cross_view_targets="masked"))
    record = {"position": 0, "epoch": published.epoch}
    copy = checkpoint.Snapshot(checkpoint.weights_of(world, target), None, published.model, UNIT_PIXELS, record)
    checkpoint.write(copy, out / folder_name(0))
    imported = {"sha256": digest, "epoch": published.epoch, "file": source.name}
    write_json(out / run.CONFIG, run.record_of(science, UNIT_PIXELS) | {"imported": imported})
    return published, checked


def model_of(init: str, base: ModelSettings) -> ModelSettings:
    """Sizes of what `--init` names; what it does not determine is `base`'s."""
    if init.startswith(PREFIX):
        return read_timm(init, base, fetch=False)[0]
    root = place(init)
    return run.load(root).science.model if exists(root / run.CONFIG) else read_start(init, base).model
