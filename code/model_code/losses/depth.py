"""Loss of the auxiliary depth distribution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from thinktwice.model_code.losses.base import DrivingLoss, Predictions, Targets
from thinktwice.registry import MODELS

UNLABELED = -1
FAR = 1e5  # meters, stands for "no depth" where the smallest is looked for


def patch_depth(depth: Tensor, size: tuple[int, int], pooling: str) -> Tensor:
    """Depth of each patch of an image, meters; ``FAR`` where none is known.

    Args:
        depth: (B, H, W) meters, 0 where unknown.
        size: (h, w), H and W are multiples.
        pooling: ``min`` takes the nearest surface of a patch, ``nearest`` the pixel at its center.

    Returns:
        (B, h, w).

    Raises:
        ValueError: if the image does not divide into patches.
    """
    H, W = depth.shape[-2:]
    h, w = size
    if H % h or W % w:
        raise ValueError(f'depth labels of {H}x{W} pixels do not divide into {h}x{w} patches')
    patches = torch.where(depth > 0, depth, FAR).unflatten(-1, (w, W // w)).unflatten(-3, (h, H // h))
    if pooling == 'min':
        return patches.amin(dim=(-3, -1))  # (B, h, H / h, w, W / w)
    return patches[..., (H // h) // 2, :, (W // w) // 2]


def depth_bins(depth: Tensor, depth_bounds: tuple[float, float, float]) -> Tensor:
    """Bin of each depth, int64: bin c holds [near + c step, near + (c + 1) step); ``UNLABELED`` outside.

    Args:
        depth: any shape, meters.
        depth_bounds: (near, far, step), meters.
    """
    near, far, step = depth_bounds
    num_bins = round((far - near) / step)
    position = (depth - (near - step)) / step
    position = torch.where((position >= 0) & (position < num_bins + 1), position, 0.0)
    return position.long() - 1


@MODELS.register_module()
class DepthLoss(DrivingLoss):
    """Cross-entropy of the depth distribution over the labeled patches: ``depth_loss``.

    Args:
        weight: of the mean over labeled patches (their number at least 1) of the bins' sum.
        depth_bounds: (near, far, step) of the bins, meters.
        pooling: ``min`` labels a patch by its nearest surface, ``nearest`` by its middle pixel.
        objective: ``sigmoid`` trains each bin's logit by itself, as the paper's model did;
            ``softmax`` trains the distribution that the lift uses.

    Raises:
        ValueError: on an unknown pooling or objective.
    """

    target_keys = ('depth',)

    def __init__(
        self,
        weight: float,
        depth_bounds: tuple[float, float, float],
        pooling: str = 'min',
        objective: str = 'sigmoid',
    ) -> None:
        super().__init__()
        if pooling not in ('min', 'nearest'):
            raise ValueError(f"DepthLoss: pooling={pooling!r} must be 'min' or 'nearest'")
        if objective not in ('sigmoid', 'softmax'):
            raise ValueError(f"DepthLoss: objective={objective!r} must be 'sigmoid' or 'softmax'")
        self.weight = weight
        self.depth_bounds = depth_bounds
        self.pooling = pooling
        self.objective = objective

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Compare depth_logits (B, N, D, h, w) with depth (B, N, H, W) in meters, 0 where unknown."""
        logits = predictions['depth_logits'].flatten(0, 1).float()  # (B * N, D, h, w)
        size = (logits.shape[-2], logits.shape[-1])
        patches = patch_depth(targets['depth'].flatten(0, 1), size, self.pooling)
        bins = depth_bins(patches, self.depth_bounds)
        labeled = bins != UNLABELED
        if self.objective == 'softmax':
            total = F.cross_entropy(logits, bins, ignore_index=UNLABELED, reduction='sum')
        else:
            total = _sigmoid_cross_entropy(logits, bins, labeled)
        return {'depth_loss': self.weight * total / self.label_count(labeled)}


def _sigmoid_cross_entropy(logits: Tensor, bins: Tensor, labeled: Tensor) -> Tensor:
    """Sum over labeled patches and bins: softplus of every logit, less the labeled bin's logit."""
    chosen = logits.gather(1, bins.clamp(min=0).unsqueeze(1)).squeeze(1)
    return ((F.softplus(logits).sum(1) - chosen) * labeled).sum()
