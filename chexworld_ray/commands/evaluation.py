"""What training made: evaluate, report, export. Arguments only; what does the work is imported inside `run`."""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from chexworld_ray.commands.common import json_line, urls


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
        rows = evaluate(urls(self.run_url), self.data, self.out, settings)
        print(results_table(rows), file=sys.stderr if self.json else sys.stdout)
        if self.json:
            json_line({"results": [dataclasses.asdict(row) for row in rows]})


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
