"""What is evaluated, and how: every field is an option of `chexworld evaluate`. Standard library only."""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal, get_args

from chexworld_ray.errors import UserError

Protocol = Literal["knn", "linear", "attentive", "finetune", "fewshot", "segment"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
UncertainPolicy = Literal["ignore", "zero", "one"]
Decoder = Literal["light", "linear"]
Head = Literal["probe", "random"]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long."""

    epochs: int = 50
    """At most so many passes over the training images."""
    warmup_epochs: float = 1.0
    """Passes over which the learning rate rises."""
    patience: int = 15
    """Stop after so many epochs without a better validation; the best epoch's weights are kept."""
    batch: int = 256
    """Images a step; never more than a quarter of the training images."""


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """What training makes of an image."""

    crop_scale: tuple[float, float] = (0.4, 1.0)
    """Share of the image's area that a random crop has."""
    jitter: float = 0.2
    """Brightness and contrast change by up to so much."""


@dataclass(frozen=True, kw_only=True)
class AttentiveSettings:
    """A learned query on frozen tokens."""

    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """Learning rates that are tried; the one with the best validation is taken."""
    weight_decay: float = 0.05
    """Of the weight matrices."""
    heads: int = 4
    """Of the attention; the largest divisor of the width up to it."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(epochs=40, patience=8, batch=64))


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Rate and drop path of MAE's fine-tuning. CheXWorld's (1e-4, 0.6) is worse with small models and sets."""

    head: Head = "probe"
    """Starts at the linear probe of the frozen encoder (LP-FT), or small and at random, as published."""
    lr: float = 1e-3
    """Of the head and the last layer."""
    weight_decay: float = 0.05
    """Of the weight matrices."""
    layer_decay: float = 0.75
    """A layer's rate over that of the layer after it."""
    drop_path: float = 0.1
    """Probability with which the last block is skipped; earlier ones less."""
    predictor: bool = False
    """Also train the predictor, on top of the encoder: it predicts every patch of the view that it sees (IWM)."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """Settings of `finetune` to search on validation with ASHA, for each task, share and draw; unset: no search."""

    lrs: tuple[float, ...] = ()
    """Learning rates; unset: finetune.lr."""
    layer_decays: tuple[float, ...] = ()
    """Unset: finetune.layer-decay."""
    drop_paths: tuple[float, ...] = ()
    """Unset: finetune.drop-path."""

    def points(self, around: FinetuneSettings) -> list[FinetuneSettings]:
        """Every combination; one where nothing is to be searched."""
        lrs, decays = self.lrs or (around.lr,), self.layer_decays or (around.layer_decay,)
        return [
            replace(around, lr=lr, layer_decay=decay, drop_path=drop)
            for lr, decay, drop in product(lrs, decays, self.drop_paths or (around.drop_path,))
        ]


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """The published recipe: patch 8, Dice + BCE."""

    decoder: Decoder = "light"
    """light: U-Net-like, encoder trained as well; linear: one matrix on frozen tokens."""
    patch_size: int = 8
    """Patches and positions are resampled to it (pixels); encoders of timm keep theirs."""
    lr: float = 2e-4
    """Of decoder and last layer; ten times as much for `linear`."""
    weight_decay: float = 0.05
    """Of the weight matrices."""
    layer_decay: float = 0.75
    """A layer's rate over that of the layer after it."""
    drop_path: float = 0.1
    """Probability with which the last block is skipped; earlier ones less."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    fit: FitSettings = field(default_factory=lambda: FitSettings(batch=32))


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """All of it."""

    protocol: str = "knn,linear"
    """Comma-separated: knn, linear, attentive, finetune, fewshot, segment."""
    task: str | None = None
    """Published benchmarks, comma-separated: vindr, shenzhen, nih14, rsna, rsna-opacity, chexpert, siim, chestdr.
    Unset: every label (mask) of every source."""
    checkpoints: Literal["newest", "all"] = "newest"
    """Which checkpoints."""
    fractions: tuple[float, ...] = (1.0,)
    """Shares of the training patients whose labels are used."""
    shots: tuple[int, ...] = (1, 5, 10)
    """Of fewshot: positives and negatives of each label."""
    draws: int = 1
    """How often a share or shots are drawn, and what starts at random is started."""
    image_size: int | None = None
    """Side of the view (pixels); unset: what the encoder was trained on."""
    uncertain: UncertainPolicy = "ignore"
    """What a label of -1 counts as, where the task does not say."""
    train_split: str = "train"
    """Split that probes are fitted on."""
    val_split: str = "val"
    """Split that penalties and epochs are chosen on."""
    test_split: str = "test"
    """Split that they are tested on."""
    attentive: AttentiveSettings = field(default_factory=AttentiveSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    grid: GridSettings = field(default_factory=GridSettings)
    segment: SegmentSettings = field(default_factory=SegmentSettings)

    @property
    def splits(self) -> tuple[str, str, str]:
        """Training, validation, test."""
        return self.train_split, self.val_split, self.test_split

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The protocols named.

        Raises:
            UserError: one is not known.
        """
        names = self.protocol.split(",")
        if unknown := [name for name in names if name not in PROTOCOLS]:
            raise UserError(f"--protocol {unknown[0]}: no such protocol; there are {', '.join(PROTOCOLS)}")
        return tuple(protocol for protocol in PROTOCOLS if protocol in names)
