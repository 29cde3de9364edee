"""Sampling core of multi-scale deformable attention (Zhu et al., 2021) in plain PyTorch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def multi_scale_deformable_attention(
    values: Sequence[Float[Tensor, 'B heads C _ _']],
    locations: Float[Tensor, 'B Q heads levels P 2'],
    weights: Float[Tensor, 'B Q heads levels P'],
) -> Float[Tensor, 'B Q heads*C']:
    """Weighted sum of bilinear samples of several feature maps, per head.

    The convention is that of ``grid_sample`` with ``align_corners=False`` and zero padding, but with
    (0, 0) for the upper left and (1, 1) for the lower right corner of the map.

    Args:
        values: Feature map of each level.
        locations: x, y of P points per level.
        weights: Attention weights, normalized over levels and points.

    Returns:
        The results of the heads, concatenated.

    Raises:
        ValueError: If the number of maps differs from the number of levels.
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
    value: Float[Tensor, 'B keys heads C'],
    spatial_shapes: Int64[Tensor, 'levels 2'],
    level_start_index: Int64[Tensor, ' levels'],
    sampling_locations: Float[Tensor, 'B Q heads levels P 2'],
    attention_weights: Float[Tensor, 'B Q heads levels P'],
    im2col_step: int = 64,
) -> Float[Tensor, 'B Q heads*C']:
    """Replace the function of the same name in mmcv, so that mmdet's attention layers run on CUDA too.

    Args:
        value: The levels one after the other, each flattened row by row.
        spatial_shapes: Height and width of each level.
        level_start_index: Unused, part of mmcv's signature.
        sampling_locations: x, y of P points per level.
        attention_weights: Attention weights, normalized over levels and points.
        im2col_step: Unused, part of mmcv's signature.
    """
    shapes = spatial_shapes.tolist()
    levels = value.permute(0, 2, 3, 1).split([height * width for height, width in shapes], dim=-1)
    maps = [level.unflatten(-1, shape) for level, shape in zip(levels, shapes, strict=True)]
    return multi_scale_deformable_attention(maps, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Float[Tensor, 'B keys heads C'],
    spatial_shapes: Int64[Tensor, 'levels 2'],
    level_start_index: Int64[Tensor, ' levels'],
    sampling_locations: Float[Tensor, 'B Q heads levels P 2'],
    attention_weights: Float[Tensor, 'B Q heads levels P'],
    grad_output: Float[Tensor, 'B Q heads*C'],
    grad_value: Float[Tensor, 'B keys heads C'],
    grad_sampling_loc: Float[Tensor, 'B Q heads levels P 2'],
    grad_attn_weight: Float[Tensor, 'B Q heads levels P'],
    im2col_step: int = 64,
) -> None:
    """Write the three gradients in place; other arguments as in :func:`ms_deform_attn_forward`."""
    leaves = [t.detach().requires_grad_() for t in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(leaves[0], spatial_shapes, level_start_index, leaves[1], leaves[2])
    gradients = torch.autograd.grad(output, leaves, grad_output)
    for target, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        target.copy_(gradient)
