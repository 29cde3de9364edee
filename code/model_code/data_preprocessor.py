"""Preprocessing of a batch on the device: augmentation and normalization of the images."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from thinktwice.registry import MODELS


@MODELS.register_module()
class DrivingDataPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device, augment its images in training, normalize them.

    Args:
        mean: Mean of R, G, B, as a fraction of the full range.
        std: Standard deviation of R, G, B, as a fraction of the full range.
        photometric: Config of the augmentation in training, None for no augmentation.
        non_blocking: Whether copies to the device may overlap with computation; those of page-locked memory
            do.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        photometric: dict[str, Any] | None = None,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking)
        self.photometric = MODELS.build(photometric) if photometric else None
        self.iteration = 0
        self.register_buffer('mean', 255 * torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer('std', 255 * torch.tensor(std)[:, None, None], persistent=False)

    def set_iteration(self, iteration: int) -> None:
        """Set the number of optimizer steps since the start of the run, for the augmentation."""
        self.iteration = iteration

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Preprocess a batch.

        Args:
            data: ``inputs``, ``img`` (B, T, N, 3, H, W) uint8 RGB if there are cameras, optionally
                ``targets`` and ``metas``, one dict per sample, which needs a ``seed`` for the augmentation.
            training: Whether the images are augmented.

        Returns:
            The same groups on the device, with ``img`` as normalized float32.

        Raises:
            ValueError: If the images are augmented and a sample has no seed.
        """
        prepared = {**data, 'inputs': self.cast_data(data['inputs'])}
        if data.get('targets') is not None:
            prepared['targets'] = self.cast_data(data['targets'])
        img = prepared['inputs'].get('img')
        if img is None:
            return prepared
        # mmengine calls this under the optimizer's autocast; the augmentation's color matrices need float32
        with torch.autocast(img.device.type, enabled=False):
            if training and self.photometric is not None:
                img = self.augment(img, data.get('metas'))
            prepared['inputs']['img'] = (img.float() - self.mean) / self.std
        return prepared

    def augment(
        self, img: UInt8[Tensor, 'B T N 3 H W'], metas: Sequence[dict[str, Any]] | None
    ) -> Float[Tensor, 'B T N 3 H W']:
        """Augment each sample with its own seed."""
        if metas is None or any('seed' not in meta for meta in metas):
            raise ValueError(
                "photometric augmentation needs metas[b]['seed'] of every sample, and one has none: let the "
                'dataset add it, or set photometric=None'
            )
        assert self.photometric is not None
        samples = zip(img, metas, strict=True)
        return torch.stack(
            [self.photometric(sample, int(meta['seed']), self.iteration) for sample, meta in samples]
        )
