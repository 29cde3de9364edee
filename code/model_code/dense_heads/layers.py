"""Small layers shared by the decoder's heads."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def mlp(*channels: int, final_activation: bool = False) -> nn.Sequential:
    """Build linear layers with ReLU between them.

    Args:
        channels: Channels of the input, of each hidden layer and of the output.
        final_activation: Whether a ReLU follows the last layer too.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in zip(channels[:-1], channels[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*(layers if final_activation else layers[:-1]))


def double_conv(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Build two 3x3 convolutions with a ReLU between them."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, outputs, 3, padding=1),
    )


def in_float32(
    module: nn.Module, x: Float[Tensor, '*shape C'], *others: Float[Tensor, '...']
) -> Float[Tensor, '*_ out_channels']:
    """Run a module in float32 (or in float64, if ``x`` is), regardless of autocast.

    For the last layers of the plan: beyond 8 m the resolution of bfloat16 is 6 cm.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return module(x.to(dtype), *(other.to(dtype) for other in others))


def conv_with_broadcast(
    conv: nn.Conv2d, spatial: Float[Tensor, 'samples C H W'], constant: Float[Tensor, 'B V']
) -> Float[Tensor, 'B out_channels _ _']:
    """Compute ``conv(cat([spatial, constant expanded to all pixels], 1))``.

    The constant channels need no convolution: at each pixel their contribution is the sum of the
    kernel taps inside the map, so one matrix product and a small convolution of ones suffice. With
    the 2048 constant channels of the BEV update this saves nearly all of its arithmetic.

    Args:
        conv: Convolution with zero padding, dilation 1 and one group over C + V channels.
        spatial: Feature map, the same for all passes over the samples, see :func:`repeat_samples`.
        constant: Channels that are the same at all pixels.
    """
    weight_map, weight_constant = conv.weight.split([spatial.shape[1], constant.shape[1]], dim=1)
    result = F.conv2d(spatial, weight_map, conv.bias, conv.stride, conv.padding)
    size = (spatial.shape[2], spatial.shape[3])
    assert not isinstance(conv.padding, str)
    response = conv_constant(weight_constant, constant, size, conv.stride, conv.padding)
    return repeat_samples(result, len(constant)) + response


def repeat_samples(x: Float[Tensor, 'samples ...'], rows: int) -> Float[Tensor, '{rows} ...']:
    """Repeat what is the same for all passes over the samples, to the given number of rows."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def conv_constant(
    weight: Float[Tensor, 'outputs V kH kW'],
    constant: Float[Tensor, 'B V'],
    size: tuple[int, int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> Float[Tensor, 'B outputs _ _']:
    """Convolve channels that are the same at all pixels of a map of the given size, padded with zeros."""
    kernel = (weight.shape[2], weight.shape[3])
    num_taps = kernel[0] * kernel[1]
    taps = F.linear(constant, weight.permute(2, 3, 0, 1).flatten(0, 2))  # (B, taps * outputs)
    ones = taps.new_ones(1, 1, *size)
    identity = torch.eye(num_taps, dtype=ones.dtype, device=ones.device).view(num_taps, 1, *kernel)
    inside = F.conv2d(ones, identity, None, stride, padding)[0]  # (taps, H', W'): whether a tap is in the map
    # in the channels-last format, in which small maps are convolved on the CPU
    result = inside.flatten(1).t().to(taps.dtype) @ taps.unflatten(1, (num_taps, -1))
    return result.transpose(1, 2).unflatten(-1, inside.shape[1:])


def to_conv_format(maps: Float[Tensor, 'B C H W']) -> Float[Tensor, 'B C H W']:
    """On the CPU, change to the channels-last memory format, which convolutions of few channels keep.

    They take up to half the time in it, and are not faster in it on a GPU in float32.
    """
    return maps.contiguous(memory_format=torch.channels_last) if maps.device.type == 'cpu' else maps
