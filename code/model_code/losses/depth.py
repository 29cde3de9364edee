"""Loss of the auxiliary depth prediction."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from thinktwice.errors import ConfigError
from thinktwice.geometry.bev_grid import Bounds
from thinktwice.model_code.losses.base import DrivingLoss, Losses, Predictions, Targets
from thinktwice.registry import MODELS

UNLABELED = -1
FAR = 1e5  # meters, replaces unknown depths before a minimum is taken


def patch_depth(
    depth: Float[Tensor, 'B H W'], size: tuple[int, int], pooling: str
) -> Float[Tensor, 'B {size[0]} {size[1]}']:
    """Depth of each patch of an image in meters; ``FAR`` where it is unknown.

    Args:
        depth: Meters, 0 where unknown.
        size: Patches per column and per row.
        pooling: ``min`` takes the smallest depth of a patch, ``nearest`` the pixel at its center.

    Raises:
        ValueError: If H and W are not multiples of ``size``.
    """
    H, W = depth.shape[-2:]
    h, w = size
    if H % h or W % w:
        raise ValueError(f'depth labels of {H}x{W} pixels do not divide into {h}x{w} patches')
    patches = torch.where(depth > 0, depth, FAR).unflatten(-1, (w, W // w)).unflatten(-3, (h, H // h))
    if pooling == 'min':
        return patches.amin(dim=(-3, -1))  # (B, h, H / h, w, W / w)
    return patches[..., (H // h) // 2, :, (W // w) // 2]


def bin_count(depth_bounds: Bounds) -> int:
    """Number of bins."""
    near, far, step = depth_bounds
    return round((far - near) / step)


def depth_bins(depth: Float[Tensor, '*shape'], depth_bounds: Bounds) -> Int64[Tensor, '*shape']:
    """Bin of each depth: bin c is [near + c step, near + (c + 1) step); ``UNLABELED`` outside.

    Args:
        depth: Meters.
        depth_bounds: Near, far and step in meters.
    """
    near, _, step = depth_bounds
    num_bins = bin_count(depth_bounds)
    position = (depth - (near - step)) / step
    position = torch.where((position >= 0) & (position < num_bins + 1), position, 0.0)
    return position.long() - 1


@MODELS.register_module()
class DepthLoss(DrivingLoss):
    """Cross-entropy of the depth distribution over the labeled patches: ``depth_loss``.

    Args:
        weight: Weight of the loss: the sum over bins, averaged over labeled patches (at least 1).
        depth_bounds: Near, far and step of the bins, meters.
        pooling: See :func:`patch_depth`.
        objective: ``sigmoid`` for binary cross-entropy of each bin, as in the paper's model, or
            ``softmax`` for cross-entropy of the distribution that lift-splat uses.

    Raises:
        ValueError: If ``pooling`` or ``objective`` is unknown.
    """

    target_keys = ('depth',)
    output_keys = ('depth_logits',)

    def __init__(
        self,
        weight: float,
        depth_bounds: Bounds,
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

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare depth_logits (B, N, D, h, w) with depth (B, N, H, W) in meters, 0 where unknown."""
        logits = predictions['depth_logits'].flatten(0, 1).float()  # (B * N, D, h, w)
        if (num_bins := bin_count(self.depth_bounds)) != logits.shape[1]:
            raise ConfigError(
                f'DepthLoss: depth_bounds={tuple(self.depth_bounds)} are {num_bins} bins, but the camera '
                f'encoder predicts {logits.shape[1]}: set depth_bounds of the config'
            )
        size = (logits.shape[-2], logits.shape[-1])
        patches = patch_depth(targets['depth'].flatten(0, 1), size, self.pooling)
        bins = depth_bins(patches, self.depth_bounds)
        labeled = bins != UNLABELED
        if self.objective == 'softmax':
            total = F.cross_entropy(logits, bins, ignore_index=UNLABELED, reduction='sum')
        else:
            total = _sigmoid_cross_entropy(logits, bins, labeled)
        return {'depth_loss': self.weight * total / self.label_count(labeled)}


def _sigmoid_cross_entropy(
    logits: Float[Tensor, 'B D h w'], bins: Int64[Tensor, 'B h w'], labeled: Bool[Tensor, 'B h w']
) -> Float[Tensor, '']:
    """Sum over labeled patches and bins: softplus of every logit minus the logit of the labeled bin."""
    chosen = logits.gather(1, bins.clamp(min=0).unsqueeze(1)).squeeze(1)
    return ((F.softplus(logits).sum(1) - chosen) * labeled).sum()
