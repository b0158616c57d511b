"""Photometric actions: brightness, contrast, gamma, blur, noise. Batched tensor code on [0, 1] grey images.

Legend: B batch, V views (2), H height, W width, A = 5 action parameters in the order of ACTION_NAMES.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from chexworld_ray.config import Range, ViewSettings
from chexworld_ray.hashing import Purpose
from chexworld_ray.views.random import normal, uniform

ACTION_NAMES = ("brightness", "contrast", "gamma", "blur", "noise")
ACTION_SIZE = len(ACTION_NAMES)
IDENTITY = (1.0, 1.0, 1.0, 0.0, 0.0)
BLUR_REACH = 3.0  # standard deviations that the blur kernel covers


def _between(draw: Tensor, bounds: Range) -> Tensor:
    return bounds[0] + draw * (bounds[1] - bounds[0])


def sample_jitter(seed: int, positions_B: Tensor, settings: ViewSettings) -> Tensor:
    """Brightness and contrast factors that both views and the target share, Bx2."""
    draws_B3 = uniform(seed, positions_B, Purpose.JITTER, 3)
    factors_B2 = 1.0 + (2.0 * draws_B3[:, :2] - 1.0) * settings.jitter
    return torch.where(draws_B3[:, 2:] < settings.jitter_probability, factors_B2, torch.ones_like(factors_B2))


def sample_actions(seed: int, positions_B: Tensor, settings: ViewSettings) -> Tensor:
    """One action for each of the two views, BxVxA."""
    draws = uniform(seed, positions_B, Purpose.ACTION, 2, 7)
    low, high = (math.log(value) for value in settings.gamma)
    tone = torch.stack(
        [
            _between(draws[..., 0], settings.brightness),
            _between(draws[..., 1], settings.contrast),
            torch.exp(_between(draws[..., 2], (low, high))),
        ],
        dim=-1,
    )
    tone = torch.where(draws[..., 5:6] < settings.tone_probability, tone, torch.ones_like(tone))
    blur = _between(draws[..., 3:4], settings.blur_radius)
    blur = torch.where(draws[..., 6:7] < settings.blur_probability, blur, torch.zeros_like(blur))
    return torch.cat([tone, blur, _between(draws[..., 4:5], settings.noise_sigma)], dim=-1)


def sample_flips(seed: int, positions_B: Tensor, settings: ViewSettings) -> Tensor:
    """True where a view is mirrored left to right, BxV."""
    return uniform(seed, positions_B, Purpose.FLIP, 2) < settings.flip_probability


def apply_tone(images_BHW: Tensor, brightness_B: Tensor, contrast_B: Tensor) -> Tensor:
    """Brightness (a factor), then contrast (distance from the image's mean), each clipped to [0, 1]."""
    images = (images_BHW * brightness_B[:, None, None]).clamp_(0.0, 1.0)
    mean, contrast = images.mean(dim=(1, 2), keepdim=True), contrast_B[:, None, None]
    return images.mul_(contrast).add_(mean * (1.0 - contrast)).clamp_(0.0, 1.0)


def blur(images_BHW: Tensor, sigma_B: Tensor, largest: float) -> Tensor:
    """Gaussian blur with a standard deviation (pixels) for each image; 0 leaves an image as it is."""
    reach = max(1, math.ceil(BLUR_REACH * largest))
    offsets_K = torch.arange(-reach, reach + 1, device=images_BHW.device, dtype=images_BHW.dtype)
    kernel_BK = torch.exp(-0.5 * (offsets_K / sigma_B.clamp_min(1e-3)[:, None]) ** 2)
    kernel_BK = kernel_BK / kernel_BK.sum(dim=1, keepdim=True)
    count = images_BHW.shape[0]
    padded = F.pad(images_BHW[None], (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel_BK[:, None, :, None], groups=count)
    return F.conv2d(rows, kernel_BK[:, None, None, :], groups=count)[0]


def apply_actions(images_BHW: Tensor, actions_BA: Tensor, noise_BHW: Tensor | None, settings: ViewSettings) -> Tensor:
    """T(y; a): the seen images from clean ones in [0, 1]; the identity action returns its input.

    The action's blur is in pixels of a view of `blur_side`; in one of another side it is as large a part of it.
    """
    brightness, contrast, gamma, sigma, noise = actions_BA.unbind(dim=1)
    images = apply_tone(images_BHW, brightness, contrast)
    exponent_B11 = gamma[:, None, None]
    images = torch.where(exponent_B11 == 1.0, images, images**exponent_B11)
    if settings.blur_probability > 0 and settings.blur_radius[1] > 0:
        scale = images.shape[-1] / settings.blur_side
        images = _blur_some(images, sigma * scale, settings.blur_radius[1] * scale)
    if noise_BHW is not None:
        images = (images + noise_BHW * noise[:, None, None]).clamp_(0.0, 1.0)
    return images


def _blur_some(images_BHW: Tensor, sigma_B: Tensor, largest: float) -> Tensor:
    """Blur where sigma is not 0. A CPU picks those images; on a device that would be a wait, so it blurs all."""
    if images_BHW.device.type != "cpu":
        return torch.where(sigma_B[:, None, None] > 0, blur(images_BHW, sigma_B, largest), images_BHW)
    chosen = sigma_B.nonzero()[:, 0]
    return (
        images_BHW.index_copy_(0, chosen, blur(images_BHW[chosen], sigma_B[chosen], largest))
        if len(chosen)
        else images_BHW
    )


def make_views(
    crops_BVHW: Tensor, positions_B: Tensor, settings: ViewSettings, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and seen views in [0, 1] (BxVxHxW) and the actions between them (BxVxA) from uint8 crops."""
    count, views, height, width = crops_BVHW.shape
    jitter_BV2 = sample_jitter(seed, positions_B, settings)[:, None].expand(count, views, 2)
    actions_BVA = sample_actions(seed, positions_B, settings)
    images = crops_BVHW.reshape(-1, height, width).to(torch.float32).div_(255.0)
    factors = jitter_BV2.reshape(-1, 2)
    clean = apply_tone(images, factors[:, 0], factors[:, 1])
    noise = None
    if settings.noise_sigma[1] > 0:
        noise = normal(seed, positions_B, Purpose.NOISE, views, height, width).reshape(-1, height, width)
    seen = apply_actions(clean, actions_BVA.reshape(-1, ACTION_SIZE), noise, settings)
    return clean.view_as(crops_BVHW), seen.view_as(crops_BVHW), actions_BVA
