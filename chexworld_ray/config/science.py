"""What a result depends on, but for the data: model, views, masks, objective, optimizer."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from chexworld_ray.config.checks import STRICT, Range, check
from chexworld_ray.config.views import MaskSettings, ViewSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """Encoder (a timm ViT without class token) and predictor."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
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
            check(getattr(self, name) >= 1, f"model.{name} must be at least 1")
        check(self.mlp_width is None or self.mlp_width >= 1, "model.mlp_width must be at least 1")
        check(
            self.image_size % self.patch_size == 0,
            f"--model.image-size {self.image_size} is no multiple of --model.patch-size {self.patch_size}",
        )
        for name in ("width", "predictor_width"):
            value = self.width if name == "width" else self.predictor_width
            check(value % self.heads == 0, f"model.{name}: {value} is not a multiple of heads ({self.heads})")
            check(value % 4 == 0, f"model.{name}: {value} is not a multiple of 4 (sin-cos positions)")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


ObjectiveKind = Literal["chexworld", "local", "local_global", "local_domain", "naive_sum", "no_delta", "no_action"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveSettings:
    """Which of the three tasks are learned, and on which patches."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
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

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
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

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
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
        check(self.global_batch >= 1, "global_batch must be at least 1")
        check(self.epochs > 0, "epochs must be positive")
        check(self.seed >= 0, "seed must not be negative")
        self.masks.budgets(self.model.grid)

    def total_batches(self, rows: int) -> int:
        """Global batches of the whole run over `rows` images: ⌈epochs·rows/global_batch⌉."""
        return max(1, math.ceil(self.epochs * rows / self.global_batch))
