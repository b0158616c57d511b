"""Self-supervised world models for radiographs: a bucket of images in, an encoder and a table of how good it is out."""

# Arguments only; what does the work is imported inside `run`, so that --help is instant.

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from chexworld_ray import __version__, recipes
from chexworld_ray.config import RunSettings, Runtime, Science
from chexworld_ray.errors import UserError

_DIM = tyro.conf.arg(name="")
_BOX = re.compile(r"[╭╮╰╯│─]")


def _json_line(record: dict[str, Any]) -> None:
    """The last thing on stdout, where --json was asked for."""
    print(json.dumps(record))  # noqa: T201


def _urls(text: str) -> list[str]:
    return [url for url in text.split(",") if url]


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
            _json_line({"report": report})


@dataclass(frozen=True, kw_only=True)
class Phantoms:
    """Make a folder of phantom radiographs with masks, landmarks and findings, ready to be ingested."""

    out: str
    """Folder or URL to write to."""
    images: int = 384
    """How many; two an imaginary patient."""
    size: int = 320
    """Side in pixels."""
    seed: int = 0
    """Other seeds are other patients."""

    def run(self) -> None:
        from chexworld_ray.phantoms.dataset import write_phantoms
        from chexworld_ray.storage import place

        if self.images < 1 or self.size < 64:
            raise UserError("phantoms: --images must be at least 1 and --size at least 64")
        write_phantoms(place(self.out), self.images, self.seed, self.size)


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Turn a folder of radiographs (JPEG, PNG, DICOM, …) into Parquet shards."""

    folder: Annotated[str, tyro.conf.Positional]
    """Folder or URL; every image below it, or those that --labels names."""
    out: str
    """Where the shards go: a local path, s3://…, or whatever fsspec opens."""
    labels: str | None = None
    """CSV table, relative to the folder or to where you stand."""
    label_columns: str | None = None
    """Columns that are labels, comma-separated; unset: those whose cells are all 1, 0, -1 or empty."""
    skip_missing: bool = False
    """Set rows aside whose file is missing, instead of stopping."""
    longest_side: int = 512
    """Larger images are shrunk to this."""
    keep_borders: bool = False
    """Leave black borders on."""
    val_fraction: float = 0.1
    """Part of the patients that goes to val, where no split is given."""
    test_fraction: float = 0.2
    """Part of the patients that goes to test, where no split is given."""
    seed: int = 0
    """Seed of splits and shuffling."""
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.reports.text import describe_manifest
        from chexworld_ray.runtime.cluster import say
        from chexworld_ray.runtime.ingest import ingest
        from chexworld_ray.shards.sources.folder import read_folder
        from chexworld_ray.shards.writer import WriteSettings

        columns = tuple(self.label_columns.split(",")) if self.label_columns is not None else None
        source, missing = read_folder(self.folder, self.labels, columns, self.skip_missing)
        settings = WriteSettings(
            longest_side=self.longest_side,
            crop_borders=not self.keep_borders,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self.seed,
        )
        manifest = ingest(source, missing, self.out, settings)
        say(describe_manifest(manifest))
        if self.json:
            _json_line(
                {
                    "images": manifest.rows,
                    "rejected": manifest.rejected,
                    "data_version": manifest.data_version,
                }
            )


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what a data set holds: counts, labels, splits, pixel statistics; and what training makes of it."""

    url: Annotated[str, tyro.conf.Positional]
    """A data set that `chexworld ingest` wrote."""
    views: str | None = None
    """Write a picture (PNG) of crops, actions and masks to this file."""
    recipe: str = "small"
    """Recipe whose views are shown."""
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.reports.text import describe_manifest
        from chexworld_ray.shards.manifest import load

        manifest = load(self.url)
        print(describe_manifest(manifest), file=sys.stderr if self.json else sys.stdout)
        if self.views is not None:
            from chexworld_ray.reports.views import views_picture
            from chexworld_ray.storage import place, write_bytes

            science = recipes.by_name(self.recipe).science
            write_bytes(place(self.views), views_picture(manifest, science))
        if self.json:
            _json_line(manifest.counts())


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
    json: bool = False
    """Print one JSON object on stdout at the end."""
    runtime: Annotated[Runtime, _DIM] = dataclasses.field(default_factory=Runtime)
    science: Annotated[Science, _DIM] = dataclasses.field(default_factory=Science)

    def run(self) -> None:
        from chexworld_ray.runtime.cluster import say
        from chexworld_ray.runtime.pretrain import pretrain
        from chexworld_ray.training.run import checkpoints

        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(f"--name {self.name!r}: letters, digits, '.', '_' and '-' only")
        settings = RunSettings(science=self.science, runtime=self.runtime)
        run = pretrain(settings, _urls(self.data), self.storage, self.name)
        newest = checkpoints(run.root)[-1]
        say(f"done: {newest.position} images seen; newest checkpoint {newest.root.url}")
        if self.json:
            _json_line({"run": run.root.url, "images_seen": newest.position, "checkpoint": newest.root.url})


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Probe frozen features of a run's newest checkpoint, beside the random-initialised encoder."""

    run_url: Annotated[str, tyro.conf.arg(name="run")]
    """URL of the run; several, comma-separated, are seeds of one experiment."""
    data: str
    """Data set with labels and splits."""
    protocol: str = "knn,linear"
    """Comma-separated: knn, linear."""
    checkpoints: Literal["newest", "all"] = "newest"
    """Which checkpoints."""
    uncertain: Literal["ignore", "zero", "one"] = "ignore"
    """What a label of -1 counts as."""
    train_split: str = "train"
    """Split that probes are fitted on."""
    val_split: str = "val"
    """Split that their penalty is chosen on."""
    test_split: str = "test"
    """Split that they are tested on."""
    out: str | None = None
    """Where results.parquet goes; unset: the (first) run."""
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.evaluation.trial import Splits, parse_protocols
        from chexworld_ray.reports.text import results_table
        from chexworld_ray.runtime.evaluate import EvaluationSettings, evaluate

        settings = EvaluationSettings(
            protocols=tuple(parse_protocols(self.protocol)),
            all_checkpoints=self.checkpoints == "all",
            uncertain=self.uncertain,
            splits=Splits(self.train_split, self.val_split, self.test_split),
        )
        rows = evaluate(_urls(self.run_url), self.data, self.out, settings)
        print(results_table(rows), file=sys.stderr if self.json else sys.stdout)
        if self.json:
            _json_line({"results": [dataclasses.asdict(row) for row in rows]})


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page about a run: settings, data, curves, results, views."""

    run_url: Annotated[str, tyro.conf.arg(name="run")]
    """URL of the run."""
    out: str | None = None
    """File to write; unset: report.html in the run."""

    def run(self) -> None:
        from chexworld_ray.reports.html import write_report
        from chexworld_ray.runtime.cluster import say
        from chexworld_ray.training.run import load_url

        say(f"report: {write_report(load_url(self.run_url), self.out)}")


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
        _json_line(errors)
        return 0 if all(error <= LIMIT for error in errors.values()) else 1


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Phantoms, tyro.conf.subcommand("phantoms")]
    | Annotated[Ingest, tyro.conf.subcommand("ingest")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Import, tyro.conf.subcommand("import")]
)
COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "phantoms": Phantoms,
    "ingest": Ingest,
    "inspect": Inspect,
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "report": Report,
    "import": Import,
}


def parse(argv: Sequence[str]) -> Any:
    """The command that the arguments ask for.

    Raises:
        UserError: they do not fit; one line.
        SystemExit: help was asked for.
    """
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name not in COMMANDS:
        return _quietly(lambda: tyro.cli(Command, prog="chexworld", args=list(argv) or ["--help"], description=__doc__))
    default = _pretrain_default(rest) if name == "pretrain" else None
    return _quietly(lambda: tyro.cli(COMMANDS[name], prog=f"chexworld {name}", args=list(rest), default=default))


def _pretrain_default(words: Sequence[str]) -> Pretrain:
    """Settings of the recipe; sizes of the model where `--init` tells them."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--recipe", default="small")
    peek.add_argument("--init")
    chosen = peek.parse_known_args(list(words))[0]
    settings = recipes.by_name(chosen.recipe)
    science = settings.science
    if chosen.init is not None:
        from chexworld_ray.training.initial import model_of

        science = dataclasses.replace(science, model=model_of(chosen.init, science.model))
    return Pretrain(
        data=tyro.MISSING,
        storage=tyro.MISSING,
        name=tyro.MISSING,
        recipe=chosen.recipe,
        runtime=settings.runtime,
        science=science,
    )


def _quietly(parse_arguments: Any) -> Any:
    """tyro draws a box around its errors; a user of a log wants one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_arguments()
    except SystemExit as end:
        if end.code in (0, None):
            raise
        lines = [_BOX.sub("", line).strip() for line in said.getvalue().splitlines()]
        _title, *words = [line for line in lines if line and "--help" not in line and "full helptext" not in line]
        raise UserError(" ".join(words)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 where a check failed; 2 with one line for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(__version__)  # noqa: T201
        return 0
    try:
        return parse(arguments).run() or 0
    except UserError as error:
        print(f"chexworld: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("chexworld: interrupted; the same command goes on where it stopped", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
