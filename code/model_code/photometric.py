"""Photometric augmentation of camera images, whose strength increases over the training run.

All images of a sample (frames and cameras) share the same parameters, order of operations and masks,
so that they stay comparable. The random numbers depend only on the seed of the sample, and their
ranges on the iteration, so that the result does not depend on the number of workers or ranks. (Noise
and dropped pixels are drawn on the device of the images, and differ between types of devices.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Shaped
from torch import Generator, Tensor
from torch.nn import functional as F

from thinktwice.registry import MODELS

GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma of R, G, B
CONTRAST_CENTER = 127.0
#: size of the coarse mask before upsampling: fraction of the image, and minimum height and width
COARSE_SCALE = (0.08, 0.20)
COARSE_MIN_PIXELS = 3


Images = Float32[Tensor, 'images 3 H W']


@dataclass(frozen=True)
class PhotometricLimits:
    """Ranges of the parameters at one iteration; gray levels are 0 to 255.

    Attributes:
        probability: Probability of each operation.
        per_channel: Probability that each channel gets its own values.
        blur_sigma: Maximum standard deviation of the blur, pixels.
        noise_std: Maximum standard deviation of the noise, gray levels.
        dropout: Maximum fraction of dropped pixels.
        add: Maximum brightness offset, gray levels.
        multiply: Minimum and maximum brightness factor.
        contrast: Minimum and maximum contrast factor.
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

    The standard deviation of the noise is a fraction of the full range. (2023 used the fraction as gray
    levels; docs/reference_quirks, Q12.)
    """
    i = float(iteration)
    fraction = 0.198667 - 0.16010042 / (1 + (i / 600000) ** 1.863486)
    return PhotometricLimits(
        probability=min(0.05 + i / 600000, 1.0),
        per_channel=min(i / 3e6, 1.0),
        blur_sigma=min(0.5 + i / 600000, 1.0),
        noise_std=fraction * 255,
        dropout=fraction,
        add=10 + i / 30000,
        multiply=(1 - 0.91 * i / 1.5e6, 1 + i / 240000),
        contrast=(1 - i / 3e6, 1 + i / 3e6),
    )


@dataclass
class Draw:
    """Random numbers of one sample: parameters on the CPU, pixels on the device of the images."""

    limits: PhotometricLimits
    parameters: Generator
    pixels: Generator

    def uniform(self, low: float, high: float, size: int = 1) -> Float32[Tensor, ' {size}']:
        """Uniform random numbers on the CPU."""
        return low + (high - low) * torch.rand(size, generator=self.parameters)

    def channels(self) -> int:
        """Return 3 if each channel gets its own values, else 1."""
        return 3 if self.uniform(0, 1).item() < self.limits.per_channel else 1

    def happens(self) -> bool:
        """Whether the next operation is applied."""
        return self.uniform(0, 1).item() < self.limits.probability


def blur(img: Images, draw: Draw) -> Images:
    """Gaussian blur with reflection padding."""
    sigma = draw.uniform(0, draw.limits.blur_sigma).item()
    radius = min(max(1, round(3 * sigma)), img.shape[-1] - 1, img.shape[-2] - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=img.device)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    img = F.pad(img, (radius, radius, radius, radius), mode='reflect')
    img = F.conv2d(img, kernel, groups=3)
    return F.conv2d(img, kernel.transpose(-2, -1), groups=3)


def add_noise(img: Images, draw: Draw) -> Images:
    """Gaussian noise per pixel."""
    std = draw.uniform(0, draw.limits.noise_std).item()
    size = (draw.channels(), *img.shape[-2:])
    return img + std * torch.randn(size, generator=draw.pixels, device=img.device)


def drop_rectangles(img: Images, draw: Draw) -> Images:
    """Black rectangles: dropout with a coarse mask, upsampled to the image."""
    fraction = draw.uniform(0, draw.limits.dropout).item()
    scale = draw.uniform(*COARSE_SCALE).item()
    size = [max(COARSE_MIN_PIXELS, round(side * scale)) for side in img.shape[-2:]]
    kept = torch.rand((1, draw.channels(), *size), generator=draw.parameters) >= fraction
    return img * F.interpolate(kept.float(), img.shape[-2:], mode='nearest').to(img.device)


def drop_pixels(img: Images, draw: Draw) -> Images:
    """Black pixels: dropout per pixel."""
    fraction = draw.uniform(0, draw.limits.dropout).item()
    size = (draw.channels(), *img.shape[-2:])
    return img * (torch.rand(size, generator=draw.pixels, device=img.device) >= fraction)


def add(img: Images, draw: Draw) -> Images:
    """Change the brightness by an offset."""
    return img + _per_channel(draw.uniform(-draw.limits.add, draw.limits.add, draw.channels()), img)


def multiply(img: Images, draw: Draw) -> Images:
    """Change the brightness by a factor."""
    return img * _per_channel(draw.uniform(*draw.limits.multiply, size=draw.channels()), img)


def change_contrast(img: Images, draw: Draw) -> Images:
    """Change the contrast around the middle gray."""
    factor = _per_channel(draw.uniform(*draw.limits.contrast, size=draw.channels()), img)
    return CONTRAST_CENTER + (img - CONTRAST_CENTER) * factor


def blend_gray(img: Images, draw: Draw) -> Images:
    """Blend with the grayscale image."""
    alpha = draw.uniform(0, 1).item()
    gray = (img * img.new_tensor(GRAY_WEIGHTS)[:, None, None]).sum(dim=-3, keepdim=True)
    return img + alpha * (gray - img)


OPERATIONS: tuple[Callable[[Images, Draw], Images], ...] = (
    blur, add_noise, drop_rectangles, drop_pixels, add, multiply, change_contrast, blend_gray,
)  # fmt: skip


@MODELS.register_module()
class PhotometricAugmentation:
    """Operations in random order, each applied with a probability; the strength depends on the iteration."""

    def __call__(
        self, img: Shaped[Tensor, '*images 3 H W'], seed: int, iteration: int
    ) -> Float32[Tensor, '*images 3 H W']:
        """Augment the images of one sample.

        The result of each operation is rounded to whole gray levels, as if images were stored between
        operations. (2023 truncated; docs/reference_quirks, Q13.)

        Args:
            img: RGB, 0 to 255, any dtype.
            seed: Seed of the sample: a function of run seed, epoch and index.
            iteration: Training iteration.

        Returns:
            Integers from 0 to 255.
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


def _per_channel(values: Float32[Tensor, ' channels'], img: Images) -> Float32[Tensor, 'channels 1 1']:
    """Move one value, or one per channel, to the device of the image."""
    return values.to(img)[:, None, None]
