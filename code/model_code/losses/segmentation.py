"""Loss of the auxiliary segmentation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from thinktwice.model_code.losses.base import DrivingLoss, Predictions, Targets
from thinktwice.registry import MODELS


def focal_cross_entropy(
    logits: Tensor, labels: Tensor, alpha: float, gamma: float, ignore_index: int, count: Tensor | None = None
) -> Tensor:
    """Mean over the labeled pixels of alpha (1 - p)^gamma (-log p), p the probability of the label.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64.
        alpha: factor of every pixel.
        gamma: how much pixels that are already right count less.
        ignore_index: label of pixels that don't count.
        count: what to divide the sum by; None for the number of labeled pixels, at least 1.

    Returns:
        A scalar.
    """
    cross_entropy = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction='none')
    focus = (1 - torch.exp(-cross_entropy)).pow(gamma)
    if count is None:
        count = (labels != ignore_index).sum().clamp(min=1)
    return alpha * (focus * cross_entropy).sum() / count


def nearest_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (..., H, W) at another size (h, w), each pixel's the one of the pixel where its corner falls."""
    H, W = labels.shape[-2:]
    rows = torch.arange(size[0], device=labels.device) * H // size[0]
    columns = torch.arange(size[1], device=labels.device) * W // size[1]
    return labels[..., rows[:, None], columns]


@MODELS.register_module()
class SegmentationLoss(DrivingLoss):
    """Focal cross-entropy of the segmentation at the size of its logits: ``seg_loss``.

    Args:
        weight: of the mean.
        alpha: factor of every pixel.
        gamma: how much pixels that are already right count less.
        ignore_index: label of pixels that don't count.
    """

    target_keys = ('seg',)

    def __init__(self, weight: float, alpha: float, gamma: float, ignore_index: int) -> None:
        super().__init__()
        self.weight = weight
        self.alpha = alpha
        self.gamma = gamma
        self.ignore_index = ignore_index

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Compare seg_logits (B, N, K, h, w) with seg (B, N, H, W)."""
        logits = predictions['seg_logits'].flatten(0, 1)
        labels = nearest_labels(targets['seg'].flatten(0, 1), (logits.shape[-2], logits.shape[-1])).long()
        return {'seg_loss': self.weight * self.pixel_loss(logits, labels)}

    def pixel_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The focal factor is each pixel's own; in the 2023 code it was one number for the whole batch."""
        count = self.label_count(labels != self.ignore_index)
        return focal_cross_entropy(logits, labels, self.alpha, self.gamma, self.ignore_index, count)
