"""Deformable convolution (v1) through torchvision: CPU, CUDA and autograd alike.

The layer is the one of "Deformable Convolutional Networks" (Dai et al., 2017):
sampling positions shifted by offsets, bilinear, zero outside, no modulation.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d

from thinktwice.registry import MODELS


@MODELS.register_module()
class DeformConv2dPack(nn.Module):
    """Deformable convolution whose offsets come from an ordinary one on the same input.

    Parameters are named as in mmcv's ``DCN``: ``weight``, ``conv_offset.weight``,
    ``conv_offset.bias``. The convolution itself has no bias. Offsets start at
    zero: an ordinary convolution at first.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: pixels.
        stride: pixels.
        padding: pixels of zeros around the input.
        dilation: pixels between taps.
        groups: blocks of channels that are convolved apart.
        deform_groups: blocks of channels with offsets of their own.

    Raises:
        ValueError: if the channels can't be divided into the groups.
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
        """Kaiming uniform with the gain of ReLU for the weight, zero for the offsets."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity='relu')
        nn.init.zeros_(self.conv_offset.weight)
        if self.conv_offset.bias is not None:
            nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            (B, out_channels, H', W'). The offsets inside are (B, 2 * taps, H', W') in pixels,
            per tap (row by row) first dy, then dx.
        """
        offset = self.conv_offset(x)
        # torchvision's kernel knows no half precision on the CPU and no bfloat16 anywhere
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
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Torchvision's operator, NaN wherever an offset is NaN.

    torchvision's CPU kernel takes a NaN offset as an index and crashes the process. An infinite one
    samples the zeros outside the image.
    """
    is_nan = offset.isnan()
    out = deform_conv2d(input, offset.masked_fill(is_nan, torch.inf), weight, None, stride, padding, dilation)
    return out.masked_fill(is_nan.any(dim=1, keepdim=True), torch.nan)


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *buffers: Tensor, **sizes: Any
) -> None:
    """Fill ``output`` as mmcv's function of the same name, so that mmdet's ``dcn`` configs run.

    Args:
        input: (B, C, H, W).
        weight: (C', C / group, kH, kW).
        offset: (B, 2 * deformable_group * kH * kW, H', W').
        output: (B, C', H', W'), overwritten.
        buffers: scratch space of the compiled version, unused.
        sizes: dW, dH (stride), padW, padH, dilationW, dilationH.
    """
    stride, padding, dilation = _geometry(sizes)
    output.copy_(_convolve(input, weight, offset, stride, padding, dilation))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    *buffers: Tensor,
    **sizes: Any,
) -> None:
    """Fill ``grad_input`` and ``grad_offset``; arguments as in :func:`deform_conv_forward`."""
    gradients = _gradients((input, offset), (input, offset, weight), grad_output, sizes)
    grad_input.copy_(gradients[0])
    grad_offset.copy_(gradients[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    *buffers: Tensor,
    scale: float = 1,
    **sizes: Any,
) -> None:
    """Add to ``grad_weight``; arguments as in :func:`deform_conv_forward`."""
    # the convolution is linear in its weight: any weight of this shape gives the gradient
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
    """Gradients of the ``wanted`` ones among ``operands`` = (input, offset, weight)."""
    stride, padding, dilation = _geometry(sizes)
    leaves = {id(tensor): tensor.detach().requires_grad_() for tensor in wanted}
    with torch.enable_grad():
        input, offset, weight = (leaves.get(id(tensor), tensor.detach()) for tensor in operands)
        output = _convolve(input, weight, offset, stride, padding, dilation)
    return torch.autograd.grad(output, [leaves[id(tensor)] for tensor in wanted], grad_output)
