"""The target encoder that the online probe liked best, kept beside the checkpoints, whatever retention removes."""

from collections.abc import Callable

from chexworld_ray.config import ModelSettings
from chexworld_ray.errors import UserError
from chexworld_ray.models.encoder import Encoder
from chexworld_ray.models.weights import encoder_bytes
from chexworld_ray.storage import Place, StorageError, exists, read_json, write_bytes, write_json

BEST, TOLD = "best.safetensors", "best.json"


class KeepBest:
    """Called by the probe, in its thread, with the very weights that it looked at."""

    def __init__(
        self, run: Place, model: ModelSettings, pixels: tuple[float, float], say: Callable[[str], None]
    ) -> None:
        self._run, self._model, self._pixels, self._say = run, model, pixels, say
        told = read_json(run / TOLD).get("probe_knn") if exists(run / TOLD) else float("-inf")
        if not isinstance(told, float | int):
            raise UserError(f"{(run / TOLD).url}: no probe_knn in it; it is damaged: remove it, and start again")
        self._value = float(told)

    def __call__(self, target: Encoder, value: float, position: int) -> None:
        """Write them where none before had a higher value. A storage that is away is told of; a next best comes."""
        if not value > self._value:
            return
        tensors = {name: tensor.detach().cpu() for name, tensor in target.vit.state_dict().items()}
        try:
            write_bytes(self._run / BEST, encoder_bytes(tensors, self._model, self._pixels, position))
            write_json(self._run / TOLD, {"probe_knn": value, "images_seen": position})
        except StorageError as error:
            self._say(f"{error}; the best encoder so far is not kept")
            return
        self._value = value
