"""Segmentation loss of 2023 (docs/reference_quirks, M21)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from thinktwice.model_code.losses.segmentation import SegmentationLoss
from thinktwice.registry import MODELS


@MODELS.register_module()
class ReferenceSegmentationLoss(SegmentationLoss):
    """Segmentation loss of the 2023 code; arguments as for :class:`SegmentationLoss`."""

    def pixel_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of all labeled pixels, times the focal factor of that mean (M21).

        Easy and hard pixels weigh the same; the factor only scales the whole loss.

        Args:
            logits: (B, K, H, W).
            labels: (B, H, W) int64.

        Returns:
            A scalar.
        """
        cross_entropy = F.cross_entropy(logits.float(), labels, ignore_index=self.ignore_index)
        return self.alpha * (1 - torch.exp(-cross_entropy)) ** self.gamma * cross_entropy
