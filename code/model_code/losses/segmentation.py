"""Loss of the auxiliary semantic segmentation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from thinktwice.errors import ConfigError
from thinktwice.model_code.losses.base import DrivingLoss, Losses, Predictions, Targets
from thinktwice.registry import MODELS


def focal_cross_entropy(
    logits: Float[Tensor, 'B classes h w'],
    labels: Int64[Tensor, 'B h w'],
    alpha: float,
    gamma: float,
    ignore_index: int,
    count: Shaped[Tensor, ''] | None = None,
    class_weights: Float[Tensor, ' classes'] | None = None,
) -> Float[Tensor, '']:
    """Focal loss (Lin et al., 2017): alpha (1 - p)^gamma (-log p), p the probability of the label.

    Args:
        logits: Class logits.
        labels: Class ids.
        alpha: Factor of every pixel.
        gamma: Exponent that reduces the weight of well classified pixels.
        ignore_index: Label of the pixels to ignore.
        count: The sum over pixels is divided by this; None for the number of labeled pixels, at least 1.
        class_weights: Factor of the pixels of each class; None for 1.
    """
    cross_entropy = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction='none')
    focus = (1 - torch.exp(-cross_entropy)).pow(gamma)
    if count is None:
        count = (labels != ignore_index).sum().clamp(min=1)
    loss = focus * cross_entropy
    if class_weights is not None:
        loss = loss * class_weights[torch.where(labels == ignore_index, 0, labels)]
    return alpha * loss.sum() / count


def nearest_labels(
    labels: Shaped[Tensor, '*batch H W'], size: tuple[int, int]
) -> Shaped[Tensor, '*batch {size[0]} {size[1]}']:
    """Resize labels as ``interpolate(mode='nearest')`` does, in their own dtype."""
    H, W = labels.shape[-2:]
    rows = torch.arange(size[0], device=labels.device) * H // size[0]
    columns = torch.arange(size[1], device=labels.device) * W // size[1]
    return labels[..., rows[:, None], columns]


@MODELS.register_module()
class SegmentationLoss(DrivingLoss):
    """Focal loss of the segmentation at the size of its logits: ``seg_loss``.

    Args:
        weight: Weight of the loss, which is averaged over the labeled pixels.
        alpha: See :func:`focal_cross_entropy`.
        gamma: See :func:`focal_cross_entropy`.
        ignore_index: Label of the pixels to ignore.
        class_weights: Factor of the pixels of each class, for classes of few pixels; None for 1.
    """

    target_keys = ('seg',)
    output_keys = ('seg_logits',)
    class_weights: Tensor | None

    def __init__(
        self,
        weight: float,
        alpha: float,
        gamma: float,
        ignore_index: int,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        values = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer('class_weights', values, persistent=False)
        self.weight = weight
        self.alpha = alpha
        self.gamma = gamma
        self.ignore_index = ignore_index

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare seg_logits (B, N, classes, h, w) with seg (B, N, H, W)."""
        logits = predictions['seg_logits'].flatten(0, 1)
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ConfigError(
                f'SegmentationLoss has {len(self.class_weights)} class_weights, but the segmentation head '
                f'has {logits.shape[1]} classes: give a weight for each'
            )
        labels = nearest_labels(targets['seg'].flatten(0, 1), (logits.shape[-2], logits.shape[-1])).long()
        return {'seg_loss': self.weight * self.pixel_loss(logits, labels)}

    def pixel_loss(
        self, logits: Float[Tensor, 'B classes h w'], labels: Int64[Tensor, 'B h w']
    ) -> Float[Tensor, '']:
        """Focal loss with a factor per pixel; 2023 used one for the batch (docs/reference_quirks, M21)."""
        count = self.label_count(labels != self.ignore_index)
        return focal_cross_entropy(
            logits, labels, self.alpha, self.gamma, self.ignore_index, count, self.class_weights
        )
