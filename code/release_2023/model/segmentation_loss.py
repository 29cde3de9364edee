"""Segmentation loss of 2023 (docs/reference_quirks, M21)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from thinktwice.model_code.losses.segmentation import SegmentationLoss
from thinktwice.registry import MODELS


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
