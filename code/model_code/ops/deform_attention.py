"""The operators of multi-scale deformable attention (Zhu et al., 2021) of ``mmcv.ops`` in plain PyTorch."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


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
    # imported when called: mmcv.ops can be imported only after the extension has been replaced
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, spatial_shapes, sampling_locations, attention_weights)


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
