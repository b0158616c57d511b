"""Training: demo, pretrain, import. Arguments only; what does the work is imported inside `run`."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated

import tyro

from chexworld_ray.commands.common import UNPREFIXED, json_line, urls
from chexworld_ray.config import RunSettings, Runtime, Science
from chexworld_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Demo:
    """From nothing to a report: phantoms, shards, pretraining, evaluation, in a few minutes on two CPU cores."""

    out: str = "chexworld-demo"
    """Folder for everything that the demo writes."""
    images: int = 480
    """Phantom radiographs to make."""
    seed: int = 0
    """Seed of phantoms and training."""
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.runtime.demo import demo

        report = demo(self.out, self.images, self.seed)
        if self.json:
            json_line({"report": report})


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train a world model. The same command goes on with a run that was interrupted."""

    data: str
    """Data sets, comma-separated URLs."""
    storage: str
    """Where runs live; the run's URL is STORAGE/NAME."""
    name: str
    """Name of the run."""
    recipe: str = "small"
    """Starting point of all settings: demo, small, chexworld_base."""
    resume_from: str | None = None
    """Go on from another run of the same settings and data, or from one of its checkpoints, as if it were this one."""
    json: bool = False
    """Print one JSON object on stdout at the end."""
    runtime: Annotated[Runtime, UNPREFIXED] = dataclasses.field(default_factory=Runtime)
    science: Annotated[Science, UNPREFIXED] = dataclasses.field(default_factory=Science)

    def run(self) -> None:
        from chexworld_ray.runtime.cluster import say
        from chexworld_ray.runtime.pretrain import pretrain
        from chexworld_ray.training.run import checkpoints

        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(f"--name {self.name!r}: letters, digits, '.', '_' and '-' only")
        science = self.science
        if science.init is not None:
            from chexworld_ray.training.initial import absolute

            science = dataclasses.replace(science, init=absolute(science.init))
        settings = RunSettings(science=science, runtime=self.runtime)
        run = pretrain(settings, urls(self.data), self.storage, self.name, self.resume_from)
        newest = checkpoints(run.root)[-1]
        say(f"done: {newest.position} images seen; newest checkpoint {newest.root.url}")
        if self.json:
            json_line({"run": run.root.url, "images_seen": newest.position, "checkpoint": newest.root.url})


@dataclass(frozen=True, kw_only=True)
class Import:
    """Turn a published CheXWorld checkpoint into a run of ours, to evaluate or to go on from (pretrain --init)."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """The file (.pth.tar); read without running what it holds."""
    out: str
    """URL of the run to write."""
    heads: int | None = None
    """Attention heads, where the file does not tell."""
    verify: str | None = None
    """Folder with batch.npz and expected.npz: compute all that is expected, print relative errors as JSON, exit code 1
    above 1e-5."""

    def run(self) -> int:
        from chexworld_ray.runtime.cluster import say
        from chexworld_ray.storage import place
        from chexworld_ray.training.initial import import_checkpoint
        from chexworld_ray.training.parity import LIMIT, relative_errors

        published = import_checkpoint(self.checkpoint, self.out, self.heads)
        say(f"{self.checkpoint} → {self.out}: {published.model}")
        say(f"next: chexworld pretrain --init {self.out} … or chexworld evaluate --run {self.out} …")
        if self.verify is None:
            return 0
        errors = relative_errors(published, place(self.verify))
        json_line(errors)
        return 0 if all(error <= LIMIT for error in errors.values()) else 1
