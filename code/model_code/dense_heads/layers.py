"""Small layers shared by the decoder's heads."""

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


def in_float32(module: nn.Module, x: Float[Tensor, '*shape C']) -> Float[Tensor, '*shape out_channels']:
    """Run a module in float32 (or in float64, if ``x`` is), regardless of autocast.

    For the last layers of the plan: beyond 8 m the resolution of bfloat16 is 6 cm.
    """
    with torch.autocast(x.device.type, enabled=False):
        return module(x.to(torch.promote_types(x.dtype, torch.float32)))


def conv_with_broadcast(
    conv: nn.Conv2d, spatial: Float[Tensor, 'B C H W'], constant: Float[Tensor, 'B V']
) -> Float[Tensor, 'B out_channels _ _']:
    """Compute ``conv(cat([spatial, constant expanded to all pixels], 1))``.

    The constant channels need no convolution: at each pixel their contribution is the sum of the
    kernel taps inside the map, so one matrix product and a small convolution of ones suffice. With
    the 2048 constant channels of the BEV update this saves nearly all of its arithmetic.

    Args:
        conv: Convolution with zero padding, dilation 1 and one group over C + V channels.
        spatial: Feature map.
        constant: Channels that are the same at all pixels.
    """
    channels = spatial.shape[1]
    weight_map, weight_constant = conv.weight[:, :channels], conv.weight[:, channels:]
    taps = F.linear(constant, weight_constant.permute(0, 2, 3, 1).flatten(0, 2))  # (B, outputs * kernel)
    kernel = conv.weight.shape[2] * conv.weight.shape[3]
    ones = spatial.new_ones(1, 1, *spatial.shape[2:])
    identity = torch.eye(kernel, dtype=ones.dtype, device=ones.device).view(kernel, 1, *conv.kernel_size)
    inside = F.conv2d(ones, identity, None, conv.stride, conv.padding).flatten(2)  # (1, kernel, H' * W')
    result = F.conv2d(spatial, weight_map, conv.bias, conv.stride, conv.padding)
    broadcast = taps.view(len(constant), -1, kernel) @ inside[0].to(taps.dtype)
    return result + broadcast.view_as(result)
