"""`chexworld benchmark …`, one class each. Arguments only; what does the work is imported inside `run`."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from chexworld_ray import recipes
from chexworld_ray.commands.common import json_line, urls
from chexworld_ray.config import MaskSettings, Runtime, ViewSettings


@dataclass(frozen=True, kw_only=True)
class _Shared:
    json: bool = False
    """Print one JSON object on one line at the end."""
    compare: str | None = None
    """File with an earlier JSON object: print each number over its earlier value."""

    def finish(self, result: dict[str, Any]) -> None:
        """Show a result, and against an earlier one where asked."""
        from chexworld_ray.benchmarks.compare import ratios
        from chexworld_ray.storage import place, read_json

        if self.compare is not None:
            result = result | {"over_earlier": ratios(result, read_json(place(self.compare)))}
        if self.json:
            json_line(result)
        else:
            print(json.dumps(result, indent=1))  # noqa: T201


@dataclass(frozen=True, kw_only=True)
class Step(_Shared):
    """One training step: images/s, time of each part, FLOP/s, memory, beside a plain timm ViT's step."""

    model: Literal["test_vit", "vit_tiny", "vit_small", "vit_base", "vit_large"] = "vit_small"
    """Sizes of the encoder; the predictor is the paper's (384 wide, 6 deep), narrower for vit_tiny. test_vit is
    tiny, to try the command out."""
    image_size: int = 224
    """Side of a view in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    batch: int = 8
    """Images of a step."""
    context_tokens: int | None = None
    """Unset: the default budget."""
    target_tokens: int | None = None
    """Unset: the default budget."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the step, where the device has it; the calibrator is always float32."""
    compile: bool = False
    """torch.compile forward and backward pass."""
    activation_checkpointing: bool = False
    """Recompute blocks in the backward pass."""
    threads: int | None = None
    """Threads of tensor code; unset: torch's choice."""
    repeats: int = 3
    """Timed steps; the shortest counts."""
    memory_steps: int = 0
    """Run this many steps more and tell whether memory grows."""
    memory_per_image: bool = False
    """Measure the memory of one more image of a batch."""

    def run(self) -> None:
        import torch

        from chexworld_ray.benchmarks import step

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        masks = MaskSettings(context_tokens=self.context_tokens, target_tokens=self.target_tokens)
        science = step.case_of(self.model, masks, self.precision, self.image_size, self.patch_size)
        runtime = Runtime(compile=self.compile, activation_checkpointing=self.activation_checkpointing)
        case = step.StepCase(science=science, runtime=runtime, batch=self.batch, repeats=self.repeats)
        result = step.benchmark_step(case, device)
        if self.memory_per_image:
            result["bytes_per_image"] = step.memory_per_image(case, device)
        if self.memory_steps:
            result["memory"] = step.memory_over_steps(case, self.memory_steps, device)
        self.finish(result)


@dataclass(frozen=True, kw_only=True)
class Views(_Shared):
    """Decode and two crops of an image on one core, beside a plain JPEG decode; and the device's part."""

    size: int = 512
    """Side of the phantoms that are decoded (pixels)."""
    folder: str | None = None
    """Take the JPEG files of this folder instead of phantoms."""
    image_size: int = 224
    """Side of a view in pixels."""
    images: int = 32
    """How many."""

    def run(self) -> None:
        import torch

        from chexworld_ray.benchmarks.step import case_of
        from chexworld_ray.benchmarks.views import benchmark_views, folder_jpegs, phantom_jpegs

        jpegs = folder_jpegs(self.folder, self.images) if self.folder else phantom_jpegs(self.size, self.images)
        science = case_of("vit_small", MaskSettings(), "bf16", self.image_size, 16)
        self.finish(benchmark_views(science, jpegs, torch.device("cpu")))


@dataclass(frozen=True, kw_only=True)
class Masks(_Shared):
    """What masks look like over many images, beside the published rule; overlap of crops; time of a batch."""

    images: int = 20_000
    """Images that probabilities are taken over."""
    batch: int = 128
    """Images of the timed batch, and of a batch under the published rule."""
    grid: int = 14
    """Patches along one side."""
    seed: int = 0
    """Seed of the masks."""
    context_tokens: int | None = None
    """Unset: the default budget."""
    target_tokens: int | None = None
    """Unset: the default budget."""
    overhang: bool = False
    """Let target blocks overhang the border."""
    threads: int = 1
    """Threads of tensor code."""
    picture: str | None = None
    """Write the heat maps (PNG) to this file."""

    def run(self) -> None:
        import torch

        from chexworld_ray.benchmarks.masks import benchmark_masks

        torch.set_num_threads(self.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        masks = MaskSettings(
            context_tokens=self.context_tokens, target_tokens=self.target_tokens, overhang=self.overhang
        )
        if self.picture is not None:
            from chexworld_ray.reports.masks import masks_picture
            from chexworld_ray.storage import place, write_bytes

            write_bytes(place(self.picture), masks_picture(masks, self.grid, self.seed, self.batch))
        self.finish(benchmark_masks(masks, ViewSettings(), self.grid, self.images, self.batch, self.seed, device))


@dataclass(frozen=True, kw_only=True)
class Pictures(_Shared):
    """How often an ingest's check of pictures is wrong, on phantoms, drawings and your own radiographs, spoilt."""

    data: str | None = None
    """Data sets whose frontal radiographs are taken too, comma-separated URLs; they should be good ones."""
    images: int = 400
    """How many phantoms, drawings of each sort, and radiographs of each source at most; from split test."""
    train: str | None = None
    """Train the network anew, on split train with limits from split val, and write its weights to this file first."""
    steps: int = 1500
    """Batches of 128 of that training."""

    def run(self) -> None:
        from chexworld_ray.benchmarks.pictures import measure_pictures

        self.finish(measure_pictures(urls(self.data) if self.data else [], self.images, self.train, self.steps))


@dataclass(frozen=True, kw_only=True)
class Stream(_Shared):
    """The Ray Data stream against a plain pyarrow loop over the same files, and the wait that a step sees."""

    data: str
    """Data sets, comma-separated URLs."""
    recipe: str = "small"
    """Whose views, batch and step are used."""
    images: int = 4_000
    """Images that are streamed; more than the data set has means several epochs."""
    steps: int = 40
    """Steps that are fed by the stream."""

    def run(self) -> None:
        from chexworld_ray.runtime.stream_benchmark import benchmark_stream

        self.finish(benchmark_stream(urls(self.data), recipes.by_name(self.recipe), self.images, self.steps))


@dataclass(frozen=True, kw_only=True)
class Plan(_Shared):
    """A large data set without its pixels: seconds and memory of an epoch's plan, and of an ingest's rows."""

    images: int = 1_000_000
    """How many."""

    def run(self) -> None:
        from chexworld_ray.benchmarks.plan import benchmark_plan

        self.finish(benchmark_plan(self.images))


@dataclass(frozen=True, kw_only=True)
class Ingest(_Shared):
    """JPEG, PNG and DICOM files into shards: images/s of a core, where the time goes, and all cores through Ray."""

    images: int = 1024
    """Files of each format; 1,024 of 1024 px take 2.2 GB of temporary space."""
    size: int = 1024
    """Side of the files' images in pixels."""

    def run(self) -> None:
        from chexworld_ray.runtime.ingest_benchmark import benchmark_ingest

        self.finish(benchmark_ingest(self.images, self.size))


@dataclass(frozen=True, kw_only=True)
class Embed(_Shared):
    """Features by Ray Data on this machine's cores or GPU against the plain encoder in a loop."""

    data: str
    """Data set."""
    recipe: str = "small"
    """Whose encoder (with random weights) is used."""

    def run(self) -> None:
        from chexworld_ray.runtime.embed_benchmark import benchmark_embed

        self.finish(benchmark_embed(self.data, recipes.by_name(self.recipe).science))


@dataclass(frozen=True, kw_only=True)
class Chaos(_Shared):
    """A run to which everything happens, on a small cluster and an S3 server of its own: what is lost or repeated."""

    out: str
    """Folder for seen.parquet, report.html, metrics.jsonl and run.log."""
    seed: int = 0
    """Seed of the faults, their order, places and victims."""
    faults: int = 10
    """How many; the run is stopped when it is safe after the last."""
    kinds: str | None = None
    """Only these, comma-separated; unset: worker killed, machine killed, machine given notice, driver killed, head
    restarted, storage answers 503, storage hangs, staging disk full, checkpoint torn."""
    hang_seconds: float = 60.0
    """How long a storage that hangs gives no answer."""

    def run(self) -> int:
        from chexworld_ray.benchmarks.chaos import KINDS, table
        from chexworld_ray.runtime.chaos import chaos
        from chexworld_ray.runtime.cluster import say

        kinds = self.kinds.split(",") if self.kinds else KINDS
        result = chaos(self.seed, self.faults, self.out, kinds, self.hang_seconds)
        say(table(result))
        self.finish(result)
        return int(any(result[name] for name in ("lost", "repeated", "misplaced")))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What things cost on this machine: step, views, masks, pictures, plan, ingest, stream, embed; and chaos."""

    part: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Step, tyro.conf.subcommand("step")]
        | Annotated[Views, tyro.conf.subcommand("views")]
        | Annotated[Masks, tyro.conf.subcommand("masks")]
        | Annotated[Pictures, tyro.conf.subcommand("pictures")]
        | Annotated[Plan, tyro.conf.subcommand("plan")]
        | Annotated[Ingest, tyro.conf.subcommand("ingest")]
        | Annotated[Stream, tyro.conf.subcommand("stream")]
        | Annotated[Embed, tyro.conf.subcommand("embed")]
        | Annotated[Chaos, tyro.conf.subcommand("chaos")]
    ]

    def run(self) -> int:
        return self.part.run() or 0
