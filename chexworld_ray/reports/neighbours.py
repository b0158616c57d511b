"""A query and the images that are nearest to it, as a picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from chexworld_ray.analysis.embeddings import Neighbour
from chexworld_ray.reports.figures import to_png
from chexworld_ray.shards.decode import decode_grey_jpeg

ACROSS = 5


def neighbours_picture(query: bytes, found: Sequence[Neighbour]) -> bytes:
    """PNG: the query first, then its neighbours with similarity, id, data set, split and labels."""
    rows = -(-(1 + len(found)) // ACROSS)
    figure = Figure(figsize=(2.6 * ACROSS, 3.1 * rows), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, ACROSS)).flat)
    titles = ["query", *(f"{one.similarity:.2f}  {one.image_id[-24:]}\n{one.told[:40]}" for one in found)]
    images = [query, *(one.image for one in found)]
    for axis, title, data in zip(axes, titles, images, strict=False):
        axis.imshow(decode_grey_jpeg(data), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    return to_png(figure)


def neighbours_table(found: Sequence[Neighbour]) -> str:
    """A line each."""
    return "\n".join(f"{one.similarity:+.3f}  {one.image_id}  {one.told}" for one in found)
