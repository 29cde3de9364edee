"""Deformable convolution (v1): samples at shifted taps, multiplied by the weight.

The layer is that of "Deformable Convolutional Networks" (Dai et al., 2017), without modulation.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from thinktwice.model_code.ops.sampling import bilinear_rows, weighted_rows
from thinktwice.registry import MODELS


@MODELS.register_module()
class DeformConv2dPack(nn.Module):
    """Deformable convolution with offsets predicted by a convolution of the same input.

    Parameters are named as in mmcv's ``DCN``: ``weight``, ``conv_offset.weight``,
    ``conv_offset.bias``. The convolution itself has no bias. The offsets are initialized to zero.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, pixels.
        stride: Stride, pixels.
        padding: Zero padding on each side, pixels.
        dilation: Distance between kernel taps, pixels.
        groups: Groups of channels, as in ``nn.Conv2d``.
        deform_groups: Groups of channels that share offsets.

    Raises:
        ValueError: If the channels are not a multiple of the groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
    ) -> None:
        super().__init__()
        for name, channels, parts in (
            ('in_channels', in_channels, groups),
            ('out_channels', out_channels, groups),
            ('in_channels', in_channels, deform_groups),
        ):
            if channels % parts:
                raise ValueError(f'{name}={channels} cannot be divided into {parts} groups')
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.kernel_size = _pair(kernel_size)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.conv_offset = nn.Conv2d(
            in_channels,
            2 * deform_groups * self.kernel_size[0] * self.kernel_size[1],
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the weight from a Kaiming uniform with the gain of ReLU, the offsets to zero."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity='relu')
        nn.init.zeros_(self.conv_offset.weight)
        if self.conv_offset.bias is not None:
            nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Float[Tensor, 'B in_channels H W']) -> Float[Tensor, 'B out_channels _ _']:
        """Convolve the input."""
        offset = self.conv_offset(x)  # pixels: dy, dx of each tap, row by row
        # positions in a large image need full precision
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            out = _convolve(
                x.to(dtype),
                self.weight.to(dtype),
                offset.to(dtype),
                self.stride,
                self.padding,
                self.dilation,
            )
        return out.to(x.dtype)


def _convolve(
    input: Float[Tensor, 'B in_channels H W'],
    weight: Float[Tensor, 'out_channels group_channels kH kW'],
    offset: Float[Tensor, 'B offset_channels h w'],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Float[Tensor, 'B out_channels h w']:
    """Convolve ``input`` at the shifted taps; the output is NaN wherever an offset is NaN."""
    (B, C, H, W), (h, w) = input.shape, offset.shape[2:]
    groups = C // weight.shape[1]
    rows, columns = (
        torch.arange(size, device=input.device).unsqueeze(1) * stride[axis]
        - padding[axis]
        + torch.arange(weight.shape[2 + axis], device=input.device) * dilation[axis]
        for axis, size in enumerate((h, w))
    )  # (h, kH) and (w, kW)
    shifts = offset.view(B, -1, *weight.shape[2:], 2, h, w).permute(4, 0, 5, 6, 2, 3, 1)
    y = shifts[0] + rows[:, None, :, None, None]  # (B, h, w, kH, kW, deformable groups)
    x = shifts[1] + columns[:, None, :, None]
    pixels, shares = bilinear_rows(x, y, columns.new_full((), W), columns.new_full((), H))

    # one row of the table per image, pixel and deformable group
    deform_groups = y.shape[-1]
    images = torch.arange(B, device=input.device).view(-1, *[1] * y.dim())
    table_rows = (pixels + images * (H * W)) * deform_groups
    table_rows += torch.arange(deform_groups, device=input.device).unsqueeze(1)
    table = input.permute(0, 2, 3, 1).reshape(B * H * W * deform_groups, -1)
    samples = weighted_rows(table, table_rows, shares).flatten(-2).unflatten(-1, (groups, -1))
    out = torch.einsum('bhwijgc,gocij->bgohw', samples, weight.unflatten(0, (groups, -1)))
    return out.flatten(1, 2)


def deform_conv_forward(
    input: Float[Tensor, 'B in_channels H W'],
    weight: Float[Tensor, 'out_channels group_channels kH kW'],
    offset: Float[Tensor, 'B offset_channels h w'],
    output: Float[Tensor, 'B out_channels h w'],
    *buffers: Tensor,
    **sizes: Any,
) -> None:
    """Replace the function of the same name in mmcv, so that mmdet's ``dcn`` configs run.

    Args:
        input: Input of the convolution.
        weight: Weight of the convolution.
        offset: dy, dx of each tap of each deformable group, pixels.
        output: Overwritten.
        buffers: Unused, scratch memory of mmcv's operator.
        sizes: dW, dH (stride), padW, padH, dilationW, dilationH.
    """
    stride, padding, dilation = _geometry(sizes)
    output.copy_(_convolve(input, weight, offset, stride, padding, dilation))


def deform_conv_backward_input(
    input: Float[Tensor, 'B in_channels H W'],
    offset: Float[Tensor, 'B offset_channels h w'],
    grad_output: Float[Tensor, 'B out_channels h w'],
    grad_input: Float[Tensor, 'B in_channels H W'],
    grad_offset: Float[Tensor, 'B offset_channels h w'],
    weight: Float[Tensor, 'out_channels group_channels kH kW'],
    *buffers: Tensor,
    **sizes: Any,
) -> None:
    """Write ``grad_input`` and ``grad_offset`` in place; arguments as in :func:`deform_conv_forward`."""
    gradients = _gradients((input, offset), (input, offset, weight), grad_output, sizes)
    grad_input.copy_(gradients[0])
    grad_offset.copy_(gradients[1])


def deform_conv_backward_parameters(
    input: Float[Tensor, 'B in_channels H W'],
    offset: Float[Tensor, 'B offset_channels h w'],
    grad_output: Float[Tensor, 'B out_channels h w'],
    grad_weight: Float[Tensor, 'out_channels group_channels kH kW'],
    *buffers: Tensor,
    scale: float = 1,
    **sizes: Any,
) -> None:
    """Add to ``grad_weight``; arguments as in :func:`deform_conv_forward`."""
    # the convolution is linear in its weight, so the gradient does not depend on the weight
    weight = torch.zeros_like(grad_weight)
    (gradient,) = _gradients((weight,), (input, offset, weight), grad_output, sizes)
    grad_weight.add_(gradient, alpha=scale)


def _geometry(sizes: dict[str, int]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    return (
        (sizes['dH'], sizes['dW']),
        (sizes['padH'], sizes['padW']),
        (sizes['dilationH'], sizes['dilationW']),
    )


def _gradients(
    wanted: tuple[Tensor, ...],
    operands: tuple[Tensor, Tensor, Tensor],
    grad_output: Tensor,
    sizes: dict[str, int],
) -> tuple[Tensor, ...]:
    """Gradients of those of ``operands`` (input, offset, weight) that are in ``wanted``."""
    stride, padding, dilation = _geometry(sizes)
    leaves = {id(tensor): tensor.detach().requires_grad_() for tensor in wanted}
    with torch.enable_grad():
        input, offset, weight = (leaves.get(id(tensor), tensor.detach()) for tensor in operands)
        output = _convolve(input, weight, offset, stride, padding, dilation)
    return torch.autograd.grad(output, [leaves[id(tensor)] for tensor in wanted], grad_output)
