"""Photometric augmentation and segmentation loss of 2023 (docs/reference_quirks, M21, Q11, Q12)."""

from dataclasses import replace

import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor
from torch.nn import functional as F

from thinktwice.model_code.losses.segmentation import SegmentationLoss
from thinktwice.model_code.photometric import PhotometricAugmentation, PhotometricLimits, photometric_limits
from thinktwice.registry import MODELS


@MODELS.register_module()
class ReferencePhotometricAugmentation(PhotometricAugmentation):
    """Augmentation whose strength hardly increases and whose noise changes no pixel.

    Args:
        steps_per_epoch: Optimizer steps per epoch; 1481 in the published run.
        num_workers: Workers of a dataloader; 8 in the published run.

    Raises:
        ValueError: If an argument is below 1.
    """

    def __init__(self, steps_per_epoch: int = 1481, num_workers: int = 8) -> None:
        if steps_per_epoch < 1 or num_workers < 1:
            raise ValueError(
                'ReferencePhotometricAugmentation: steps_per_epoch and num_workers must be at least 1, got '
                f'{steps_per_epoch} and {num_workers}'
            )
        self.steps_per_epoch = steps_per_epoch
        self.num_workers = num_workers

    def __call__(
        self, img: Shaped[Tensor, '*images 3 H W'], seed: int, iteration: int
    ) -> Float32[Tensor, '*images 3 H W']:
        """Augment at the iteration that a worker of 2023 counted (Q11).

        Each worker counted its own batches, from zero in every epoch, so the schedule stays at its
        start: at most step 185 of 88,860 in the published run, where brightness factor and contrast
        have no effect and each operation has a probability of 5%.

        Args:
            img: RGB, 0 to 255, any dtype.
            seed: Seed of the sample.
            iteration: Optimizer steps since the start of the run.

        Returns:
            Integers from 0 to 255.
        """
        return super().__call__(img, seed, iteration % self.steps_per_epoch // self.num_workers)

    def limits(self, iteration: int) -> PhotometricLimits:
        """Ranges at an iteration, with the noise as gray levels instead of a fraction of the range (Q12).

        Noise with a standard deviation of at most 0.2 gray levels disappears when pixels are rounded.
        """
        limits = photometric_limits(iteration)
        return replace(limits, noise_std=limits.noise_std / 255)


@MODELS.register_module()
class ReferenceSegmentationLoss(SegmentationLoss):
    """Segmentation loss of the 2023 code; arguments as for :class:`SegmentationLoss`."""

    def pixel_loss(
        self, logits: Float[Tensor, 'B classes h w'], labels: Int64[Tensor, 'B h w']
    ) -> Float[Tensor, '']:
        """Mean cross-entropy of all labeled pixels, times the focal factor of that mean (M21).

        Easy and hard pixels have the same weight; the factor only scales the loss.
        """
        cross_entropy = F.cross_entropy(logits.float(), labels, ignore_index=self.ignore_index)
        return self.alpha * (1 - torch.exp(-cross_entropy)) ** self.gamma * cross_entropy
