"""A picture of what training makes of images: crops, actions, masks."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from chexworld_ray.config import Science
from chexworld_ray.reports.figures import to_png
from chexworld_ray.shards.decode import decode_grey_jpeg
from chexworld_ray.shards.manifest import Manifest
from chexworld_ray.shards.plan import VERSION, make_plan
from chexworld_ray.shards.reader import read_window
from chexworld_ray.views.batch import CropBatch, WorldModelBatch, crop_image, make_batch

COLOURS = ("tab:orange", "tab:cyan")
COLUMNS = (
    "image and crops",
    "view 1, clean",
    "view 1, seen",
    "context 1",
    "target 1",
    "view 2, clean",
    "view 2, seen",
    "target 2",
)


def views_picture(manifest: Manifest, science: Science, version: int = VERSION, count: int = 4) -> bytes:
    """PNG: the first `count` images of the plan (of a version), with everything that is drawn for them."""
    plan = make_plan([manifest], science.splits, science.projections, science.seed, version)
    window = next(plan.windows(0, 1))
    rows = read_window(plan, window, 0, min(count, window.rows), plan.rows, 0)
    images = rows["image"].to_pylist()
    positions = rows["position"].to_numpy()
    crops, boxes = zip(
        *(crop_image(data, int(at), science) for data, at in zip(images, positions, strict=True)), strict=True
    )
    share = CropBatch(np.stack(crops), np.stack(boxes), positions, np.ones(len(images), np.float32))
    batch = make_batch(share, science, 0.0, 1.0, torch.device("cpu"))
    figure = Figure(figsize=(2.0 * len(COLUMNS), 2.15 * len(images)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(images), len(COLUMNS)))
    for number, data in enumerate(images):
        _draw_row(axes[number], decode_grey_jpeg(data), boxes[number], batch, number, science.model.grid)
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title, fontsize=9)
    return to_png(figure)


def _draw_row(
    axes: np.ndarray,
    image_HW: np.ndarray,
    boxes_24: np.ndarray,
    batch: WorldModelBatch,
    number: int,
    grid: int,
) -> None:
    axes[0].imshow(image_HW, cmap="gray", vmin=0, vmax=255)
    for (top, left, height, width), colour in zip(boxes_24.tolist(), COLOURS, strict=True):
        axes[0].add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=1.5))
    clean, seen, masks = batch.clean_BVHW[number], batch.seen_BVHW[number], batch.masks
    context, context_valid = (
        masks.context_index_MC.view(-1, 2, masks.context_index_MC.shape[1]),
        masks.context_valid_MC,
    )
    target, target_valid = (
        masks.target_index_MT.view(-1, 2, masks.target_index_MT.shape[1]),
        masks.target_valid_MT,
    )
    context_valid, target_valid = context_valid.view_as(context), target_valid.view_as(target)
    _show(axes[1], clean[0].numpy())
    _show(axes[2], seen[0].numpy())
    _show(axes[3], seen[0].numpy(), context[number, 0][context_valid[number, 0]].numpy(), grid)
    _show(axes[4], clean[0].numpy(), target[number, 0][target_valid[number, 0]].numpy(), grid)
    _show(axes[5], clean[1].numpy())
    _show(axes[6], seen[1].numpy())
    _show(axes[7], clean[1].numpy(), target[number, 1][target_valid[number, 1]].numpy(), grid)
    names = zip(
        ("brightness", "contrast", "gamma", "blur", "noise"),
        batch.actions_BVA[number, 0].tolist(),
        strict=True,
    )
    text = "  ".join(f"{name} {value:.2f}" for name, value in names if name != "noise" or value)
    axes[2].set_xlabel(text.replace("  gamma", "\ngamma"), fontsize=6)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])


def _show(axis: Axes, view_HW: np.ndarray, tokens: np.ndarray | None = None, grid: int = 1) -> None:
    """A view; where tokens are given, only their patches."""
    if tokens is not None:
        keep = np.zeros(grid * grid, bool)
        keep[tokens] = True
        patch = view_HW.shape[0] // grid
        view_HW = np.where(np.kron(keep.reshape(grid, grid), np.ones((patch, patch), bool)), view_HW, 0.0)
    axis.imshow(view_HW, cmap="gray", vmin=0, vmax=1)
