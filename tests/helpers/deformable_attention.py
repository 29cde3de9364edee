"""Multi-scale deformable attention of one map per level, by mmcv's own function."""

from collections.abc import Sequence

import torch
from torch import Tensor

import thinktwice.model_code  # noqa: F401  (makes mmcv.ops importable)


def flat_maps(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The (B, pixels, heads, C) table and the (levels, 2) sizes of (B, heads, C, H, W) maps."""
    table = torch.cat([level.flatten(3) for level in maps], dim=-1).permute(0, 3, 1, 2)
    return table, torch.tensor([level.shape[-2:] for level in maps])


def multi_scale_deformable_attention(maps: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """(B, Q, heads * C) of (B, heads, C, H, W) maps at (B, Q, heads, levels, points, 2) locations."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    table, sizes = flat_maps(maps)
    return multi_scale_deformable_attn_pytorch(table, sizes, locations, weights)
