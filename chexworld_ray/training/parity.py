"""Does a published checkpoint compute here what the published code computes? Every array of `expected.npz`.

A folder holds `batch.npz` (grey images on [0, 1], actions, relative positions, mask indices per view) and
`expected.npz` (what the published code makes of it, float32). Compared is max|a−b| / max|b| of each array.
"""

import io
import re
import zipfile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chexworld_ray.config import ObjectiveSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.fold import BIAS, IMAGENET, WEIGHT, PatchEmbedding, colour_gradient
from chexworld_ray.models.published import Published
from chexworld_ray.objectives.tasks import TASKS
from chexworld_ray.objectives.world_model import Losses, WorldModel, normalised_targets
from chexworld_ray.storage import Place, fetch_named
from chexworld_ray.views.actions import ACTION_SIZE
from chexworld_ray.views.batch import WorldModelBatch
from chexworld_ray.views.masks import Masks

LIMIT = 1e-5
LARGEST = 8 * 10**9  # bytes of unpacked arrays
_PREDICTION = re.compile(r"prediction_([12])([12])")
_FEATURES = re.compile(r"(target|context)_features_image(?:_aug)?([12])")


def relative_errors(published: Published, folder: Place) -> dict[str, float]:
    """Relative error of each expected array.

    Raises:
        UserError: a file is missing or unreadable, or something is expected that a checkpoint does not determine.
    """
    if published.args.get("loss_type", "l2") != "l2":
        raise UserError(f"{folder.url}: loss_type {published.args['loss_type']!r} is not the paper's l2")
    arrays, expected = (_arrays(folder / name) for name in ("batch.npz", "expected.npz"))
    try:
        batch, counts = _batch(arrays)
    except (KeyError, ValueError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(f"{folder.url}/batch.npz: not a batch of the published format: {error}") from None
    model, target = build(published)
    target.eval()
    try:
        losses = model(batch, normalised_targets(target, batch))
        losses.total_B.mean().backward()
    except (IndexError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{folder.url}/batch.npz: does not fit this checkpoint: {said}") from None
    errors = {}
    for name, wanted in expected.items():
        with torch.no_grad():
            got = _quantity(name, model, target, batch, losses, counts)
        if got is None:
            raise UserError(f"{folder.url}/expected.npz: {name!r} is not a quantity that this program knows")
        if got.shape != wanted.shape or not wanted.size:
            raise UserError(f"{folder.url}/expected.npz: {name} has shape {wanted.shape}, {got.shape} was computed")
        scale = max(float(np.abs(wanted).max()), 1e-30)
        errors[name] = float(np.abs(got - wanted).max()) / scale
    return errors


def build(published: Published) -> tuple[WorldModel, Encoder]:
    """World model and target encoder with the published weights.

    Raises:
        UserError: tensors are missing or of another shape than the sizes say.
    """
    encoder, target = Encoder(published.model), Encoder(published.model)
    model = WorldModel(published.model, ObjectiveSettings(cross_view_targets="masked"), encoder)
    try:
        encoder.vit.load_state_dict(published.encoder)
        target.vit.load_state_dict(published.target)
        model.predictor.load_state_dict(published.predictor)
    except RuntimeError as error:
        raise UserError(f"not a published CheXWorld checkpoint: {error}") from None
    return model, target.requires_grad_(False)


def _arrays(file: Place) -> dict[str, np.ndarray]:
    data = fetch_named(file)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(one.file_size for one in archive.infolist())
        if size > LARGEST:
            raise UserError(f"{file.url}: unpacks to {size / 1e9:.0f} GB, at most {LARGEST / 1e9:.0f} GB are read")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: _real(arrays[name], name) for name in arrays.files}
    except UserError:
        raise
    except Exception as error:  # zip, deflate and numpy have no common base for what a damaged file raises
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{file.url}: not an npz file of numbers: {said}") from None


def _real(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype}, not numbers")
    return array


def _batch(arrays: dict[str, np.ndarray]) -> tuple[WorldModelBatch, dict[str, int]]:
    """Our batch, and how many context and target tokens each view has before padding."""
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    count = len(tensors["image1"])
    context, context_valid = _pad(tensors["masks_enc1"], tensors["masks_enc2"])
    target, target_valid = _pad(tensors["masks_pred1"], tensors["masks_pred2"])
    batch = WorldModelBatch(
        torch.stack([tensors["image1"][:, 0], tensors["image2"][:, 0]], dim=1).float(),
        torch.stack([tensors["image_aug1"][:, 0], tensors["image_aug2"][:, 0]], dim=1).float(),
        torch.stack([tensors["aug_params1"], tensors["aug_params2"]], dim=1).float(),
        torch.stack([_six(tensors["rel_pos_21"]), _six(tensors["rel_pos_12"])], dim=1).float(),
        Masks(context, context_valid, target, target_valid),
        torch.ones(count),
        torch.zeros(1, dtype=torch.int64),
    )
    counts = {f"{kind}{view}": tensors[f"masks_{kind}{view}"].shape[1] for kind in ("enc", "pred") for view in (1, 2)}
    return batch, counts


def _pad(first_BK: Tensor, second_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and validity of two views, views of an image adjacent, filled up to the same number."""
    most = max(first_BK.shape[1], second_BK.shape[1])
    index = torch.stack([F.pad(part.long(), (0, most - part.shape[1])) for part in (first_BK, second_BK)], dim=1)
    valid = torch.stack([torch.arange(most) < part.shape[1] for part in (first_BK, second_BK)])
    return index.flatten(0, 1), valid.expand(len(first_BK), 2, most).flatten(0, 1)


def _six(relative_BN: Tensor) -> Tensor:
    """(Δi, Δj, flip, φ) of crops of one size, or all six numbers as they are."""
    if relative_BN.shape[1] == 6:
        return relative_BN
    one = torch.ones_like(relative_BN[:, :1])
    return torch.cat([relative_BN[:, :2], one, one, relative_BN[:, 2:]], dim=1)


def _quantity(
    name: str, model: WorldModel, target: Encoder, batch: WorldModelBatch, losses: Losses, counts: dict[str, int]
) -> np.ndarray | None:
    """What the published code calls `name`; None where it is not known. View numbers count from 1."""
    parts = dict(zip(model.parts, losses.parts_LB.mean(dim=1), strict=True))
    scalars = {"loss": losses.total_B.mean(), "loss_intra": parts["local"], "loss_extra": parts["global"]}
    if name in scalars:
        return scalars[name].numpy()
    if name in ("grad_norm_encoder", "grad_norm_predictor"):
        return np.asarray(_gradient_norm(model, name.removeprefix("grad_norm_")))
    if found := _PREDICTION.fullmatch(name):  # prediction_21: context view 1, target view 2
        view, context = (int(number) - 1 for number in found.groups())
        number = next(
            index
            for index, direction in enumerate(TASKS["chexworld"].directions)
            if (direction.context, direction.target) == (context, view)
        )
        return losses.predictions_RBTD[number][:, : counts[f"pred{view + 1}"]].numpy()
    if found := _FEATURES.fullmatch(name):
        view = int(found.group(2)) - 1
        if found.group(1) == "target":
            return target(batch.clean_BVHW[:, view]).numpy()
        return losses.context_CBKD[model.streams.index((True, view))][:, : counts[f"enc{view + 1}"]].numpy()
    return None


def _gradient_norm(model: WorldModel, part: str) -> float:
    """L2 norm over the parameters as they were published: three colour channels, no number for a mirrored view."""
    if part == "predictor":
        gradients = {name: p.grad for name, p in model.predictor.named_parameters() if p.grad is not None}
        first = "action_network.layers.0.weight"
        width = model.predictor.width + ACTION_SIZE
        gradients[first] = gradients[first][:, :width]
    else:
        gradients = {name: p.grad for name, p in model.encoder.vit.named_parameters() if p.grad is not None}
        colour = colour_gradient(PatchEmbedding(gradients[WEIGHT], gradients[BIAS]), *IMAGENET)
        gradients |= {WEIGHT: colour.weight, BIAS: colour.bias}
    return sum(float(gradient.double().square().sum()) for gradient in gradients.values()) ** 0.5
