"""Where and how fast a run is computed, and all settings of a run."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from chexworld_ray.config.checks import STRICT, check
from chexworld_ray.config.science import Science

TrackerKind = Literal["mlflow", "wandb"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Where and how fast: nothing here changes a result, but for rounding."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    workers: str = "1"
    """Training processes: a number, or LEAST:MOST (2:8), between which they come and go with the machines. The global
    batch stays what it is."""
    gpu: bool = False
    """One GPU a worker."""
    micro_batch: int = 64
    """Most images of one forward pass of one worker; gradients are accumulated over the rest."""
    cpus_per_worker: float | None = None
    """CPUs that a worker reserves; unset: 1, or less on a machine with fewer than workers + 2 CPUs."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each worker holds the whole model; fsdp: parameters, gradients and moments are spread over the workers
    (FSDP2), for models that do not fit otherwise (ViT-L and larger)."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping what it computed: less memory, a third more work."""
    compile: bool = False
    """torch.compile of forward and backward pass; see BENCHMARKS.md for where it pays."""
    torch_threads: int | None = None
    """Threads of a worker's tensor code; unset: the node's cores over its workers."""
    decode_threads: int = 2
    """Threads of a worker that decode and crop ahead of the step."""
    segment_images: int = 262_144
    """Images of one Ray Data execution; the next one is built while it drains."""
    checkpoint_images: int = 100_000
    """Images between checkpoints."""
    keep: int = 5
    """Newest checkpoints that are kept."""
    log_batches: int = 10
    """Global batches between lines of metrics.jsonl."""
    resize_seconds: float = 60.0
    """Seconds between two looks for machines that came back; at most that often the workers are more again. Ray's own
    view of the cluster is up to 20 s old."""
    notice_batches: int = 10
    """Global batches between two looks for a spot notice; on one, a checkpoint is written at once."""
    record_seen: bool = False
    """Write who saw which image at which position below RUN/seen, with each checkpoint: an audit trail."""
    probe_images: int = 256
    """Labelled images of train, and of val, that an online kNN probe looks at beside training; 0: off."""
    tensorboard: bool = True
    """Write TensorBoard events below the run."""
    tracker: TrackerKind | None = None
    """Send the numbers to W&B or MLflow as well; where to, and the secret, are their own environment variables
    (WANDB_API_KEY, MLFLOW_TRACKING_URI, …)."""
    autoscaling: bool = False
    """The cluster adds machines on demand: wait for workers instead of refusing what does not fit now."""
    max_failures: int = 20
    """Losses and errors of workers that a run survives between two starts; the same error twice at the same position
    ends it."""
    max_skipped_in_row: int = 10
    """Steps in a row without a finite gradient after which a run is stopped; looked at when a line is logged."""

    def __post_init__(self) -> None:
        check(
            re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", self.workers) is not None and self.least_workers <= self.most_workers,
            f"workers: {self.workers!r} is neither a number nor LEAST:MOST",
        )
        for name in (
            "micro_batch",
            "decode_threads",
            "segment_images",
            "checkpoint_images",
            "log_batches",
            "notice_batches",
        ):
            check(dataclasses.asdict(self)[name] >= 1, f"{name} must be at least 1")
        check(self.keep >= 1, "keep must be at least 1")
        check(self.max_skipped_in_row >= 1, "max_skipped_in_row must be at least 1")

    @property
    def least_workers(self) -> int:
        """Fewer than that, and the run waits."""
        return int(self.workers.partition(":")[0])

    @property
    def most_workers(self) -> int:
        """More than that are never started."""
        return int(self.workers.rpartition(":")[2])


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What `chexworld pretrain` needs beside data, storage and name."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    science: Science = field(default_factory=Science)
    runtime: Runtime = field(default_factory=Runtime)
