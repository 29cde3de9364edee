"""Sampling core of multi-scale deformable attention (Zhu et al., 2021) in plain torch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_scale_deformable_attention(values: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples from several feature maps, per head.

    A location counts in widths and heights of the map: 0 is its left (upper) border, 1 its right
    (lower) border, and the center of the first of W pixels is 0.5 / W. Outside the map is zero.

    Args:
        values: one map per level, each (B, heads, C, H, W) with H, W of its own.
        locations: (B, Q, heads, levels, points, 2) x, y.
        weights: (B, Q, heads, levels, points), normalized over levels and points by the caller.

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


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """Sample as mmcv's function of the same name, so that mmdet's attention layers run on CUDA too.

    Args:
        value: (B, keys, heads, C), the levels one after the other, each row by row.
        spatial_shapes: (levels, 2) height and width.
        level_start_index: unused, for the compiled signature.
        sampling_locations: (B, Q, heads, levels, points, 2) x, y.
        attention_weights: (B, Q, heads, levels, points).
        im2col_step: unused, for the compiled signature.

    Returns:
        (B, Q, heads * C).
    """
    shapes = spatial_shapes.tolist()
    levels = value.permute(0, 2, 3, 1).split([height * width for height, width in shapes], dim=-1)
    maps = [level.unflatten(-1, shape) for level, shape in zip(levels, shapes, strict=True)]
    return multi_scale_deformable_attention(maps, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int = 64,
) -> None:
    """Fill the three gradients; the other arguments as in :func:`ms_deform_attn_forward`."""
    leaves = [t.detach().requires_grad_() for t in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(leaves[0], spatial_shapes, level_start_index, leaves[1], leaves[2])
    gradients = torch.autograd.grad(output, leaves, grad_output)
    for target, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        target.copy_(gradient)
