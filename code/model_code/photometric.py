"""Photometric augmentation of camera images, growing stronger over the training run.

All images of a sample (frames and cameras) share one draw of parameters, order and
masks, so that they stay comparable. The draw depends on the sample's seed alone, and the
ranges on the training iteration: the same sample at the same iteration gets the same
images, whatever the number of workers or processes. (The noise and the dropped pixels
are drawn on the images' device, and differ between kinds of devices.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from thinktwice.registry import MODELS

GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma of R, G, B
CONTRAST_CENTER = 127.0
#: size of the coarse mask before it is enlarged: share of the image, and its least height and width
COARSE_SHARE = (0.08, 0.20)
COARSE_MIN_PIXELS = 3


@dataclass(frozen=True)
class PhotometricLimits:
    """Ranges of the parameters at one iteration; gray levels run from 0 to 255.

    Attributes:
        probability: Probability of each operation.
        per_channel: Probability that the channels get values of their own.
        blur_sigma: Largest standard deviation of the blur, pixels.
        noise_std: Largest standard deviation of the noise, gray levels.
        dropout: Largest share of dropped pixels.
        add: Largest shift, gray levels.
        multiply: Least and largest factor.
        contrast: Least and largest factor of the distance to the middle gray.
    """

    probability: float
    per_channel: float
    blur_sigma: float
    noise_std: float
    dropout: float
    add: float
    multiply: tuple[float, float]
    contrast: tuple[float, float]


def photometric_limits(iteration: int) -> PhotometricLimits:
    """Ranges at a training iteration (optimizer steps since the start of the run).

    The noise is drawn in shares of the full range. (2023 took the share itself for gray
    levels, which changed no pixel.)
    """
    i = float(iteration)
    share = 0.198667 - 0.16010042 / (1 + (i / 600000) ** 1.863486)
    return PhotometricLimits(
        probability=min(0.05 + i / 600000, 1.0),
        per_channel=min(i / 3e6, 1.0),
        blur_sigma=min(0.5 + i / 600000, 1.0),
        noise_std=share * 255,
        dropout=share,
        add=10 + i / 30000,
        multiply=(1 - 0.91 * i / 1.5e6, 1 + i / 240000),
        contrast=(1 - i / 3e6, 1 + i / 3e6),
    )


@dataclass
class Draw:
    """Where the numbers of one sample come from: parameters on the CPU, pixels on the device."""

    limits: PhotometricLimits
    parameters: Generator
    pixels: Generator

    def uniform(self, low: float, high: float, size: int = 1) -> Tensor:
        """Return (size,) numbers between the bounds, on the CPU."""
        return low + (high - low) * torch.rand(size, generator=self.parameters)

    def channels(self) -> int:
        """Return 3 if the channels get values of their own, else 1."""
        return 3 if self.uniform(0, 1).item() < self.limits.per_channel else 1

    def happens(self) -> bool:
        """Return whether the next operation is applied."""
        return self.uniform(0, 1).item() < self.limits.probability


def blur(img: Tensor, draw: Draw) -> Tensor:
    """Gaussian blur, mirrored at the borders."""
    sigma = draw.uniform(0, draw.limits.blur_sigma).item()
    radius = min(max(1, round(3 * sigma)), img.shape[-1] - 1, img.shape[-2] - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=img.device)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    img = F.pad(img, (radius, radius, radius, radius), mode='reflect')
    img = F.conv2d(img, kernel, groups=3)
    return F.conv2d(img, kernel.transpose(-2, -1), groups=3)


def add_noise(img: Tensor, draw: Draw) -> Tensor:
    """Gaussian noise, a value for each pixel."""
    std = draw.uniform(0, draw.limits.noise_std).item()
    size = (draw.channels(), *img.shape[-2:])
    return img + std * torch.randn(size, generator=draw.pixels, device=img.device)


def drop_rectangles(img: Tensor, draw: Draw) -> Tensor:
    """Black rectangles: a coarse mask, enlarged to the image."""
    share = draw.uniform(0, draw.limits.dropout).item()
    scale = draw.uniform(*COARSE_SHARE).item()
    size = [max(COARSE_MIN_PIXELS, round(side * scale)) for side in img.shape[-2:]]
    kept = torch.rand((1, draw.channels(), *size), generator=draw.parameters) >= share
    return img * F.interpolate(kept.float(), img.shape[-2:], mode='nearest').to(img.device)


def drop_pixels(img: Tensor, draw: Draw) -> Tensor:
    """Black pixels."""
    share = draw.uniform(0, draw.limits.dropout).item()
    size = (draw.channels(), *img.shape[-2:])
    return img * (torch.rand(size, generator=draw.pixels, device=img.device) >= share)


def add(img: Tensor, draw: Draw) -> Tensor:
    """Shift of the brightness."""
    return img + _per_channel(draw.uniform(-draw.limits.add, draw.limits.add, draw.channels()), img)


def multiply(img: Tensor, draw: Draw) -> Tensor:
    """Factor of the brightness."""
    return img * _per_channel(draw.uniform(*draw.limits.multiply, size=draw.channels()), img)


def change_contrast(img: Tensor, draw: Draw) -> Tensor:
    """Factor of the distance to the middle gray."""
    factor = _per_channel(draw.uniform(*draw.limits.contrast, size=draw.channels()), img)
    return CONTRAST_CENTER + (img - CONTRAST_CENTER) * factor


def blend_gray(img: Tensor, draw: Draw) -> Tensor:
    """Blend with the gray image."""
    alpha = draw.uniform(0, 1).item()
    gray = (img * img.new_tensor(GRAY_WEIGHTS)[:, None, None]).sum(dim=-3, keepdim=True)
    return img + alpha * (gray - img)


OPERATIONS: tuple[Callable[[Tensor, Draw], Tensor], ...] = (
    blur, add_noise, drop_rectangles, drop_pixels, add, multiply, change_contrast, blend_gray,
)  # fmt: skip


@MODELS.register_module()
class PhotometricAugmentation:
    """Operations in random order, each with a probability; strength by iteration."""

    def __call__(self, img: Tensor, seed: int, iteration: int) -> Tensor:
        """Augment the images of one sample.

        Each operation works on whole gray levels and its result is rounded to them, as if
        images were stored between operations. (2023 truncated, half a level too dark.)

        Args:
            img: (..., 3, H, W) RGB, 0 to 255, any dtype.
            seed: Seed of the sample: a function of run seed, epoch and index.
            iteration: Training iteration.

        Returns:
            (..., 3, H, W) float32 of whole numbers from 0 to 255.
        """
        parameters = torch.Generator().manual_seed(seed)
        pixels = torch.Generator(img.device).manual_seed(seed)
        draw = Draw(self.limits(iteration), parameters, pixels)
        images = img.float().reshape(-1, *img.shape[-3:])
        for i in torch.randperm(len(OPERATIONS), generator=parameters).tolist():
            if draw.happens():
                images = OPERATIONS[i](images, draw).round_().clamp_(0, 255)
        return images.view(img.shape)

    def limits(self, iteration: int) -> PhotometricLimits:
        """Ranges of the parameters at a training iteration."""
        return photometric_limits(iteration)


def _per_channel(values: Tensor, img: Tensor) -> Tensor:
    """Turn (1,) or (3,) values into (1 or 3, 1, 1) on the image's device."""
    return values.to(img)[:, None, None]
