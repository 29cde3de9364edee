"""Photometric augmentation of 2023 (docs/reference_quirks, Q11, Q12)."""

from dataclasses import replace

from torch import Tensor

from thinktwice.model_code.photometric import PhotometricAugmentation, PhotometricLimits, photometric_limits
from thinktwice.registry import MODELS


@MODELS.register_module()
class ReferencePhotometricAugmentation(PhotometricAugmentation):
    """Augmentation whose strength hardly grows and whose noise changes no pixel.

    Args:
        steps_per_epoch: Optimizer steps of an epoch; 1481 in the published run.
        num_workers: Worker processes of a loader; 8 in the published run.
    """

    def __init__(self, steps_per_epoch: int = 1481, num_workers: int = 8) -> None:
        if steps_per_epoch < 1 or num_workers < 1:
            raise ValueError(
                'ReferencePhotometricAugmentation: steps_per_epoch and num_workers must be at least 1, got '
                f'{steps_per_epoch} and {num_workers}'
            )
        self.steps_per_epoch = steps_per_epoch
        self.num_workers = num_workers

    def __call__(self, img: Tensor, seed: int, iteration: int) -> Tensor:
        """Augment at the iteration that a worker of 2023 counted (Q11).

        Each worker process counted the batches that it had made, from zero in every epoch. So
        the schedule stays at its start: step 185 of 88,860 in the published run, where
        brightness factor and contrast do nothing and each operation has a probability of 5%.

        Args:
            img: (..., 3, H, W) RGB, 0 to 255.
            seed: Seed of the sample.
            iteration: Optimizer steps since the start of the run.

        Returns:
            (..., 3, H, W) float32 of whole numbers from 0 to 255.
        """
        return super().__call__(img, seed, iteration % self.steps_per_epoch // self.num_workers)

    def limits(self, iteration: int) -> PhotometricLimits:
        """Ranges at an iteration, the noise's share of the full range taken for gray levels (Q12).

        A standard deviation of at most 0.2 gray levels is lost when pixels are rounded.
        """
        limits = photometric_limits(iteration)
        return replace(limits, noise_std=limits.noise_std / 255)
