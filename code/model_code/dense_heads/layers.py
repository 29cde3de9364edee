"""Small layers shared by the decoder's heads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(*channels: int, final_activation: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them, and after the last one on request.

    Args:
        channels: width of the input, of each hidden layer and of the output.
        final_activation: whether the output goes through a ReLU.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in zip(channels[:-1], channels[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*(layers if final_activation else layers[:-1]))


def double_conv(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions of stride 1 with a ReLU between them."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, outputs, 3, padding=1),
    )


def in_float32(module: nn.Module, x: Tensor) -> Tensor:
    """Run a module in float32 (or in float64, if ``x`` is), whatever autocast is on.

    For the last layers of the plan: bfloat16 has steps of 6 cm beyond 8 m.
    """
    with torch.autocast(x.device.type, enabled=False):
        return module(x.to(torch.promote_types(x.dtype, torch.float32)))


def conv_with_broadcast(conv: nn.Conv2d, spatial: Tensor, constant: Tensor) -> Tensor:
    """``conv`` of a map and a vector that is the same at each of its pixels.

    The vector's part needs no convolution: at each pixel it is the sum of the kernel taps that
    fall inside the map, so it is one matrix product and one small convolution of ones. With the
    2048 constant channels of the BEV update this saves nearly all of its arithmetic.

    Args:
        conv: zero-padded, dilation 1, one group, C + V input channels, the map's channels first.
        spatial: (B, C, H, W).
        constant: (B, V).

    Returns:
        (B, outputs, H', W'), what ``conv(cat([spatial, constant on all pixels], 1))`` gives.
    """
    channels = spatial.shape[1]
    weight_map, weight_constant = conv.weight[:, :channels], conv.weight[:, channels:]
    taps = F.linear(constant, weight_constant.permute(0, 2, 3, 1).flatten(0, 2))  # (B, outputs * kernel)
    kernel = conv.weight.shape[2] * conv.weight.shape[3]
    ones = spatial.new_ones(1, 1, *spatial.shape[2:])
    identity = torch.eye(kernel, dtype=ones.dtype, device=ones.device).view(kernel, 1, *conv.kernel_size)
    inside = F.conv2d(ones, identity, None, conv.stride, conv.padding).flatten(2)  # (1, kernel, H' * W')
    result = F.conv2d(spatial, weight_map, conv.bias, conv.stride, conv.padding)
    spread = taps.view(len(constant), -1, kernel) @ inside[0].to(taps.dtype)
    return result + spread.view_as(result)
