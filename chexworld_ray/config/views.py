"""Settings of what training makes of an image: crops, actions, masks."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from chexworld_ray.config.checks import STRICT, Range, check, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewSettings:
    """Crops and actions (WORLD_MODEL: crop, jitter shared by both views, action)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
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
    """Action: standard deviation of the Gaussian blur in pixels of a view of `blur_side`; in views of other sides it is
    the same part."""
    blur_side: int = 224
    """Side of the view (pixels) that `blur_radius` is told for."""
    blur_probability: float = 0.2
    """Action: probability of the blur."""
    noise_sigma: Range = (0.0, 0.0)
    """Action: standard deviation of additive Gaussian noise, on the [0, 1] scale."""

    def __post_init__(self) -> None:
        check_range("views.crop_scale", self.crop_scale, 1e-3, 1.0)
        check_range("views.crop_ratio", self.crop_ratio, 1e-2, 1e2)
        check_range("views.crop_overlap", self.crop_overlap, 0.0, 1.0)
        check(0 <= self.flip_probability <= 1, "views.flip_probability must lie in [0, 1]")
        check_range("views.brightness", self.brightness, 0.0)
        check_range("views.contrast", self.contrast, 0.0)
        check_range("views.gamma", self.gamma, 1e-2)
        check(self.blur_side >= 1, "views.blur_side must be at least 1")
        check_range("views.blur_radius", self.blur_radius, 0.0, 4.0)
        check_range("views.noise_sigma", self.noise_sigma, 0.0)
        check(0 <= self.jitter < 1, "views.jitter must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSettings:
    """Multi-block masks with fixed token budgets."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
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
        check(self.target_blocks >= 1, "masks.target_blocks must be at least 1")
        check_range("masks.target_scale", self.target_scale, 1e-3, 1.0)
        check_range("masks.context_scale", self.context_scale, 1e-3, 1.0)

    def budgets(self, grid: int) -> tuple[int, int]:
        """(context tokens, target tokens) on a grid of grid×grid patches.

        Raises:
            UserError: a budget is below 1 or above the number of patches.
        """
        patches = grid * grid
        context = self.context_tokens if self.context_tokens is not None else max(1, round(0.36 * patches))
        target = self.target_tokens if self.target_tokens is not None else max(1, round(0.46 * patches))
        for name, value in (("context_tokens", context), ("target_tokens", target)):
            check(
                1 <= value <= patches,
                f"masks.{name}: {value} is not between 1 and the {patches} patches of a view",
            )
        return context, target
