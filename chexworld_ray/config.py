"""Settings: frozen dataclasses that make a JSON round trip and refuse what they do not know.

`Science` is what a result depends on: it must be equal for a run name to be continued.
`Runtime` is where and how fast: it may change from one start to the next.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from chexworld_ray.errors import UserError

_STRICT: dict[str, Any] = {"extra": "forbid"}
Range = tuple[float, float]
T = TypeVar("T")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _check_range(name: str, bounds: Range, low: float, high: float = math.inf) -> None:
    _check(
        low <= bounds[0] <= bounds[1] <= high,
        f"{name}: {bounds} is not an ascending range in [{low}, {high}]",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """Encoder (a timm ViT without class token) and predictor."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    image_size: int = 224
    """Side of a view in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    width: int = 768
    """Width of the encoder."""
    depth: int = 12
    """Blocks of the encoder."""
    heads: int = 12
    """Attention heads of encoder and predictor."""
    predictor_width: int = 384
    """Width of the predictor."""
    predictor_depth: int = 6
    """Blocks of the predictor."""
    mlp_width: int | None = None
    """Hidden width of the encoder's MLPs; unset: 4 times its width."""
    compat: Literal["none", "chexworld", "chexworld_unified"] = "none"
    """chexworld: positions as in the published checkpoints, rows and columns of context tokens swapped;
    chexworld_unified: swapped in the encoder only (published with unify_embed)."""
    scale_code: bool = False
    """Queries also carry the size of their view against the context's, through a linear layer."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "width", "depth", "heads", "predictor_width", "predictor_depth"):
            _check(getattr(self, name) >= 1, f"model.{name} must be at least 1")
        _check(self.mlp_width is None or self.mlp_width >= 1, "model.mlp_width must be at least 1")
        _check(self.image_size % self.patch_size == 0, "model: image_size must be a multiple of patch_size")
        for name in ("width", "predictor_width"):
            value = self.width if name == "width" else self.predictor_width
            _check(value % self.heads == 0, f"model.{name}: {value} is not a multiple of heads ({self.heads})")
            _check(value % 4 == 0, f"model.{name}: {value} is not a multiple of 4 (sin-cos positions)")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewSettings:
    """Crops and actions (WORLD_MODEL: crop, jitter shared by both views, action)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    crop_scale: Range = (0.3, 1.0)
    """Area of a crop as a part of the image."""
    crop_ratio: Range = (3 / 4, 4 / 3)
    """Width over height of a crop, sampled log-uniformly."""
    crop_sizes: Literal["same", "own"] = "same"
    """same: both crops of an image have one size, as in the paper; own: each draws its own."""
    crop_overlap: Range = (0.0, 1.0)
    """Part of the smaller crop that the other covers; corners are drawn anew until it lies in this range."""
    flip_probability: float = 0.0
    """Probability that a view is mirrored; the predictor is told whether the target is mirrored against its context."""
    jitter: float = 0.4
    """Half-width of the brightness and contrast jitter that both views and the target share."""
    jitter_probability: float = 0.8
    """Probability of the shared jitter."""
    brightness: Range = (0.6, 1.4)
    """Action: brightness factor, uniform."""
    contrast: Range = (0.6, 1.4)
    """Action: contrast factor, uniform."""
    gamma: Range = (0.5, 2.0)
    """Action: exponent, log-uniform."""
    tone_probability: float = 0.8
    """Action: probability of brightness, contrast and gamma, jointly."""
    blur_radius: Range = (0.1, 2.0)
    """Action: standard deviation of the Gaussian blur in pixels of the view."""
    blur_probability: float = 0.2
    """Action: probability of the blur."""
    noise_sigma: Range = (0.0, 0.0)
    """Action: standard deviation of additive Gaussian noise, on the [0, 1] scale."""

    def __post_init__(self) -> None:
        _check_range("views.crop_scale", self.crop_scale, 1e-3, 1.0)
        _check_range("views.crop_ratio", self.crop_ratio, 1e-2, 1e2)
        _check_range("views.crop_overlap", self.crop_overlap, 0.0, 1.0)
        _check(0 <= self.flip_probability <= 1, "views.flip_probability must lie in [0, 1]")
        _check_range("views.brightness", self.brightness, 0.0)
        _check_range("views.contrast", self.contrast, 0.0)
        _check_range("views.gamma", self.gamma, 1e-2)
        _check_range("views.blur_radius", self.blur_radius, 0.0, 4.0)
        _check_range("views.noise_sigma", self.noise_sigma, 0.0)
        _check(0 <= self.jitter < 1, "views.jitter must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSettings:
    """Multi-block masks with fixed token budgets."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    target_blocks: int = 4
    """Blocks whose union is the target."""
    target_scale: Range = (0.15, 0.2)
    """Area of one target block as a part of the grid."""
    target_aspect: Range = (0.75, 1.5)
    """Height over width of a target block, log-uniform."""
    context_scale: Range = (0.75, 1.0)
    """Area of the (square) context block as a part of the grid."""
    context_tokens: int | None = None
    """Budget of context tokens of a view; unset: 36 % of the grid."""
    target_tokens: int | None = None
    """Budget of target tokens of a view; unset: 46 % of the grid."""
    overhang: bool = False
    """Target blocks may overhang the border, so that patches at the border are targets as often as others."""

    def __post_init__(self) -> None:
        _check(self.target_blocks >= 1, "masks.target_blocks must be at least 1")
        _check_range("masks.target_scale", self.target_scale, 1e-3, 1.0)
        _check_range("masks.context_scale", self.context_scale, 1e-3, 1.0)

    def budgets(self, grid: int) -> tuple[int, int]:
        """(context tokens, target tokens) on a grid of grid×grid patches.

        Raises:
            UserError: a budget is below 1 or above the number of patches.
        """
        patches = grid * grid
        context = self.context_tokens if self.context_tokens is not None else max(1, round(0.36 * patches))
        target = self.target_tokens if self.target_tokens is not None else max(1, round(0.46 * patches))
        for name, value in (("context_tokens", context), ("target_tokens", target)):
            _check(
                1 <= value <= patches,
                f"masks.{name}: {value} is not between 1 and the {patches} patches of a view",
            )
        return context, target


TrackerKind = Literal["mlflow", "wandb"]
ObjectiveKind = Literal["chexworld", "local", "local_global", "local_domain", "naive_sum", "no_delta", "no_action"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveSettings:
    """Which of the three tasks are learned, and on which patches."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: ObjectiveKind = "chexworld"
    """chexworld: all three tasks in one pass; the others are rows of the paper's Table 3."""
    cross_view_targets: Literal["masked", "all"] = "masked"
    """Patches of the other view that are predicted: its masked ones, or all."""
    visible_weight: float = 0.0
    """Weight of a loss on the visible patches too (V-JEPA 2.1); 0: off."""
    sigreg_weight: float = 0.0
    """Weight of SIGReg (LeJEPA) on the mean of each view's context tokens; 0: off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimSettings:
    """AdamW with schedules that are functions of the images seen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    lr: float = 2e-4
    """Peak learning rate."""
    final_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    warmup: float = 40 / 300
    """Part of the run during which the learning rate rises linearly."""
    weight_decay: float = 0.05
    """Weight decay of matrices; biases and norms have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's betas."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: Range = (0.996, 1.0)
    """Momentum of the target encoder at the start and at the end, cosine between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Science:
    """All that a result depends on, but for the data."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    model: ModelSettings = field(default_factory=ModelSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    masks: MaskSettings = field(default_factory=MaskSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    splits: tuple[str, ...] = ("train",)
    """Splits that pretraining reads."""
    projections: tuple[str, ...] = ("frontal", "unknown")
    """Views (frontal, lateral, unknown) that pretraining reads."""
    global_batch: int = 2048
    """Images of one optimizer step, over all workers."""
    epochs: float = 300.0
    """Length of the run; rounded up to a whole number of global batches."""
    seed: int = 0
    """Seed of weights, plan, crops, actions and masks."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: autocast where the device computes in it, else float32; weights and optimizer stay in float32."""
    init: str | None = None
    """Where weights start: URL of a run, a checkpoint or an encoder file; timm:NAME, timm:NAME@FILE or a timm ViT's
    file. Unset: from the seed."""

    def __post_init__(self) -> None:
        _check(self.global_batch >= 1, "global_batch must be at least 1")
        _check(self.epochs > 0, "epochs must be positive")
        _check(self.seed >= 0, "seed must not be negative")
        self.masks.budgets(self.model.grid)

    def total_batches(self, rows: int) -> int:
        """Global batches of the whole run over `rows` images: ⌈epochs·rows/global_batch⌉."""
        return max(1, math.ceil(self.epochs * rows / self.global_batch))


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Where and how fast: nothing here changes a result, but for rounding."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
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
    """Send the numbers to W&B or MLflow as well; where to, and the secret, are their own environment variables."""
    autoscaling: bool = False
    """The cluster adds machines on demand: wait for workers instead of refusing what does not fit now."""
    max_failures: int = 20
    """Worker losses that a run survives between two starts."""
    max_skipped_in_row: int = 10
    """Steps in a row without a finite gradient after which a run is stopped; looked at when a line is logged."""

    def __post_init__(self) -> None:
        _check(
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
            _check(dataclasses.asdict(self)[name] >= 1, f"{name} must be at least 1")
        _check(self.keep >= 1, "keep must be at least 1")
        _check(self.max_skipped_in_row >= 1, "max_skipped_in_row must be at least 1")

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

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    science: Science = field(default_factory=Science)
    runtime: Runtime = field(default_factory=Runtime)


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain dict of a settings dataclass, ready for `json.dumps`."""
    return dataclasses.asdict(settings)


def from_dict(kind: type[T], record: dict[str, Any], where: str) -> T:
    """Settings from their JSON record.

    Raises:
        UserError: a key is unknown or missing, or a value has the wrong type; `where` is named.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: setting {key[:60]!r}: {first['msg']}") from None


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, as lines 'key: old -> new'."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
