"""Heat maps of what is context and what is target, beside the published rule."""

from matplotlib.figure import Figure

from chexworld_ray.config import MaskSettings
from chexworld_ray.reports.figures import to_png
from chexworld_ray.views.statistics import mask_statistics, published_target_probability

IMAGES = 4_000


def masks_picture(settings: MaskSettings, grid: int, seed: int, batch: int = 128) -> bytes:
    """PNG of three maps: target probability under the published rule, ours, and ours of the context."""
    ours = mask_statistics(seed, IMAGES, grid, settings)
    published = published_target_probability(seed, IMAGES, grid, settings, batch)
    figure = Figure(figsize=(9.2, 3.1), layout="constrained")
    titles = ("target, published rule", "target", "context")
    largest = max(float(part.max()) for part in (published, ours.target_GG, ours.context_GG))
    axes = figure.subplots(1, 3)
    image = None
    for axis, title, part in zip(axes, titles, (published, ours.target_GG, ours.context_GG), strict=True):
        image = axis.imshow(part, cmap="viridis", vmin=0.0, vmax=largest)
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    assert image is not None
    bar = figure.colorbar(image, ax=axes, fraction=0.03)
    bar.set_label("probability of a patch", fontsize=8)
    return to_png(figure)
