"""Encoders of runs, for whoever asks: `chexworld_ray.load_encoder`."""

from typing import Literal

from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.weights import EncoderInfo, read_encoder, resampled
from chexworld_ray.storage import fetch_named, place
from chexworld_ray.training.run import newest_whole


def load_encoder(
    url: str,
    which: Literal["target", "encoder"] = "target",
    *,
    image_size: int | None = None,
    patch_size: int | None = None,
) -> tuple[Encoder, EncoderInfo]:
    """The encoder of a run's newest whole checkpoint, of a checkpoint folder, or of an encoder file.

    `encoder(images)` takes BxHxW float32 images on [0, 1], normalised with `info.mean` and `info.std`, and returns
    BxNxD tokens. Another `image_size` or `patch_size` (pixels) resamples positions and patches.

    Raises:
        UserError: nothing of the kind is there, or no checkpoint is whole.
    """
    if url.endswith(".safetensors"):
        encoder, info = read_encoder(fetch_named(place(url), told=url), url)
    else:
        with newest_whole(url) as folder:
            file = folder / f"{which}.safetensors"
            encoder, info = read_encoder(file.read_bytes(), f"{url} ({file.name})")
    return resampled(encoder, info, image_size or info.model.image_size, patch_size or info.model.patch_size)
