"""Sampling core of multi-scale deformable attention (Zhu et al., 2021) in plain torch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_scale_deformable_attention(values: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples from several feature maps, per head.

    A location counts in widths and heights of the map: 0 is its left (upper) border, 1 its right
    (lower) border, and the centre of the first of W pixels is 0.5 / W. Outside the map is zero.

    Args:
        values: one map per level, each (B, heads, C, H, W) with H, W of its own.
        locations: (B, Q, heads, levels, points, 2) x, y.
        weights: (B, Q, heads, levels, points), normalised over levels and points by the caller.

    Returns:
        (B, Q, heads * C), heads concatenated.

    Raises:
        ValueError: if the number of maps is not the number of levels.
    """
    B, Q, heads, levels, points, _ = locations.shape
    if len(values) != levels:
        raise ValueError(f'{len(values)} maps were given for locations on {levels} levels')
    channels = values[0].shape[2]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B * heads, Q, levels, points, 2)
    samples = [
        F.grid_sample(value.flatten(0, 1), grids[:, :, level], padding_mode='zeros', align_corners=False)
        for level, value in enumerate(values)
    ]  # each (B * heads, C, Q, points)
    attention = weights.transpose(1, 2).reshape(B * heads, 1, Q, levels * points)
    summed = (torch.cat(samples, dim=-1) * attention).sum(-1)  # (B * heads, C, Q)
    return summed.view(B, heads * channels, Q).transpose(1, 2)
