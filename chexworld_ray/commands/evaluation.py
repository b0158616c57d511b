"""What training made: evaluate, report, export. Arguments only; what does the work is imported inside `run`."""

import dataclasses
import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from chexworld_ray.commands.common import UNPREFIXED, json_line, urls
from chexworld_ray.errors import UserError
from chexworld_ray.evaluation.settings import EvaluationSettings


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate a run's newest checkpoint beside its random-initialised encoder, and other people's encoders."""

    run_url: Annotated[str | None, tyro.conf.arg(name="run")] = None
    """URL of the run; several, comma-separated, are seeds of one experiment."""
    encoder: str | None = None
    """Somebody else's encoder, timm:NAME or timm:NAME@FILE; several, comma-separated."""
    data: str
    """Data set with labels (or masks) and splits."""
    settings: Annotated[EvaluationSettings, UNPREFIXED] = field(default_factory=EvaluationSettings)
    watch: int | None = None
    """Follow a run while it trains: evaluate each so many-th checkpoint, and the last."""
    out: str | None = None
    """Where results.parquet goes; unset: the (first) run."""
    json: bool = False
    """Print one JSON object on stdout at the end."""

    def run(self) -> None:
        from chexworld_ray.reports.text import results_table
        from chexworld_ray.runtime.evaluate import evaluate
        from chexworld_ray.runtime.watch import watch

        runs, foreign = urls(self.run_url or ""), urls(self.encoder or "")
        if self.watch is None:
            rows = evaluate(runs, self.data, self.out, self.settings, foreign)
        elif len(runs) == 1 and not foreign and self.out is None and self.watch >= 1:
            rows = watch(runs[0], self.data, self.watch, self.settings)
        else:
            raise UserError("--watch N follows one --run, each N-th checkpoint; --encoder and --out don't go with it")
        print(results_table(rows), file=sys.stderr if self.json else sys.stdout)
        if self.json:
            json_line({"results": [dataclasses.asdict(row) for row in rows]})


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page about a run, a sweep, or several runs side by side."""

    run_url: Annotated[str, tyro.conf.arg(name="run")]
    """URL of the run, or of a sweep; or of several runs, comma-separated, to compare."""
    out: str | None = None
    """File to write; unset: report.html in the run, comparison.html in the sweep or in the first run."""
    allow_prefix: tuple[str, ...] = ()
    """Where the run's record may lead to its data outside of the store that holds it: paths, URLs or protocols."""

    def run(self) -> None:
        from chexworld_ray.reports.comparison import write_page
        from chexworld_ray.runtime.cluster import say

        say(f"report: {write_page(urls(self.run_url), self.out, self.allow_prefix)}")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's encoder for others to use, check it there, and print the line to type."""

    run_url: Annotated[str, tyro.conf.arg(name="run")]
    """URL of the run, of a checkpoint, or of an encoder file."""
    format: Literal["safetensors", "timm", "onnx", "hf"] = "safetensors"
    """safetensors: our own file; timm: three channels; onnx; hf: a folder for timm's local-dir: or the Hub."""
    out: str | None = None
    """Folder to write into; unset: exports in the run, or the current folder."""
    which: Literal["target", "encoder"] = "target"
    """The target encoder (moving average), or the trained one."""
    channels: Literal[1, 3] | None = None
    """1: grey normalised by the run's mean and std; 3: ImageNet-normalised. Unset: 1 for safetensors, else 3."""
    image_size: int | None = None
    """Resample positions for images of this side (pixels)."""
    patch_size: int | None = None
    """Resample patches to this side (pixels)."""
    json: bool = False
    """Print one JSON object on stdout at the end, instead of the line to type."""

    def run(self) -> None:
        from chexworld_ray.runtime.cluster import say
        from chexworld_ray.training.exporting import export_run

        path, done = export_run(
            self.run_url, self.format, self.out, self.which, self.channels, self.image_size, self.patch_size
        )
        say(f"{path}: read back, its features differ by {done.relative_error:.1e} (largest, relative)")
        if self.json:
            json_line({"path": path, "line": done.line, "relative_error": done.relative_error})
        else:
            print(done.line)  # noqa: T201
