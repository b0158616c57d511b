"""Training: demo, pretrain, import. Arguments only; what does the work is imported inside `run`."""

import dataclasses
import re
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from chexworld_ray.commands.common import UNPREFIXED, json_line, urls
from chexworld_ray.config import RunSettings, Runtime, Science
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.settings import EvaluationSettings


def check_name(name: str) -> None:
    """Refuse what does not make a folder's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"--name {name!r}: letters, digits, '.', '_' and '-' only")


def _absolute(science: Science) -> Science:
    """A start named by a relative path is found from a worker's folder as well."""
    if science.init is None:
        return science
    from chexworld_ray.training.initial import absolute

    return dataclasses.replace(science, init=absolute(science.init))


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

        check_name(self.name)
        settings = RunSettings(science=_absolute(self.science), runtime=self.runtime)
        run = pretrain(settings, urls(self.data), self.storage, self.name, self.resume_from)
        newest = checkpoints(run.root)[-1]
        say(f"done: {newest.position} images seen; newest checkpoint {newest.root.url}")
        if self.json:
            json_line({"run": run.root.url, "images_seen": newest.position, "checkpoint": newest.root.url})


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Pretrain variants with several seeds, and compare each with the first and with its start, paired by seed."""

    variants: Annotated[tuple[str, ...], tyro.conf.Positional]
    """ablations (the rows of the paper's Table 3), kinds of objective (chexworld, local, …), or recipes."""
    data: str
    """Data sets to learn from, comma-separated URLs; the first is evaluated on."""
    storage: str
    """Where runs live: STORAGE/NAME/VARIANT-SEED; the table is STORAGE/NAME/results.parquet."""
    name: str
    """Name of the sweep."""
    recipe: str = "small"
    """Size and schedule of variants that are no recipe: demo, small, chexworld_base."""
    seeds: int = 3
    """Runs of each variant, seeds 0, 1, …"""
    parallel: int = 1
    """Runs at a time."""
    json: bool = False
    """Print one JSON object on stdout at the end."""
    evaluation: EvaluationSettings = dataclasses.field(default_factory=EvaluationSettings)
    runtime: Annotated[Runtime, UNPREFIXED] = dataclasses.field(default_factory=Runtime)
    science: Annotated[Science, UNPREFIXED] = dataclasses.field(default_factory=Science)

    def run(self) -> None:
        from chexworld_ray.recipes import variants
        from chexworld_ray.reports.text import sweep_table
        from chexworld_ray.runtime.sweep import sweep

        check_name(self.name)
        chosen = variants(self.variants, RunSettings(science=_absolute(self.science), runtime=self.runtime))
        where = f"{self.storage.rstrip('/')}/{self.name}"
        rows = sweep(chosen, urls(self.data), where, self.seeds, self.parallel, self.evaluation)
        print(sweep_table(rows), file=sys.stderr if self.json else sys.stdout)
        if self.json:
            json_line({"results": [dataclasses.asdict(row) for row in rows]})


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
        from chexworld_ray.models.published import Published
        from chexworld_ray.runtime.cluster import say
        from chexworld_ray.storage import place
        from chexworld_ray.training.initial import import_checkpoint
        from chexworld_ray.training.parity import LIMIT, relative_errors

        def check(published: Published) -> dict[str, float]:
            return {} if self.verify is None else relative_errors(published, place(self.verify))

        published, errors = import_checkpoint(self.checkpoint, self.out, self.heads, check)
        say(f"{self.checkpoint} → {self.out}: {published.model}")
        say(f"next: chexworld pretrain --init {self.out} … or chexworld evaluate --run {self.out} …")
        if not errors:
            return 0
        json_line(errors)
        return 0 if all(error <= LIMIT for error in errors.values()) else 1
