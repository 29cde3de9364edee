"""A convolution block with channel attention (Hu et al., "Squeeze-and-Excitation Networks", 2018)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.backbones.single_value_batch_norm import (
    SingleValueBatchNorm1d,
    SingleValueBatchNorm2d,
)

#: groups of the group norm; fewer where the channels are not a multiple
NUM_GROUPS = 8


def build_norm(kind: str, channels: int, spatial: bool) -> nn.Module:
    """Build a normalization layer that trains with any batch size.

    Args:
        kind: ``'batch'``, as in the paper, or ``'group'``, without batch statistics.
        channels: Channels of the input.
        spatial: Whether the input is (B, C, H, W) rather than (B, C).

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind == 'batch':
        return SingleValueBatchNorm2d(channels) if spatial else SingleValueBatchNorm1d(channels)
    if kind == 'group':
        return nn.GroupNorm(math.gcd(NUM_GROUPS, channels), channels)
    raise ValueError(f"norm must be 'batch' or 'group', got {kind!r}")


def normalize(
    x: Float[Tensor, 'B C *spatial'], observed: nn.Module, predicted: nn.Module | None, passes: int
) -> Float[Tensor, 'B C *spatial']:
    """Normalize observed maps, or the maps that several passes predicted.

    Args:
        x: The maps; those of a pass follow those of the one before it.
        observed: Normalization of observed maps.
        predicted: Normalization of predicted maps, if they have one of their own.
        passes: Passes that predicted the maps, each with batch statistics of its own; 0 for observed maps.
    """
    norm = observed if passes == 0 or predicted is None else predicted
    if passes <= 1 or not norm.training:
        return norm(x)
    return torch.cat([norm(part) for part in x.chunk(passes)])


class ChannelGate(nn.Module):
    """Gate channels by their mean and maximum over space.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels, 1)
        self.fc2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, 'B C H W']) -> Float[Tensor, 'B C H W']:
        """Multiply each channel by its gate in (0, 1)."""
        summary = 0.5 * x.mean(dim=(-2, -1), keepdim=True) + 0.5 * x.amax(dim=(-2, -1), keepdim=True)
        return x * self.fc2(self.fc1(summary).relu()).sigmoid()


class SqueezeExciteBlock(nn.Module):
    """Two 3x3 convolutions and a channel gate with a residual connection.

    Args:
        channels: Channels of input and output; the hidden layer has twice as many.
        norm: Kind of normalization, see :func:`build_norm`.
        separate_norms: Whether predicted maps have normalization layers of their own.
    """

    def __init__(self, channels: int, norm: str = 'batch', separate_norms: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.bn1 = build_norm(norm, 2 * channels, spatial=True)
        self.conv2 = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.bn2 = build_norm(norm, channels, spatial=True)
        self.predicted_bn1: nn.Module | None = None
        self.predicted_bn2: nn.Module | None = None
        if separate_norms:
            self.predicted_bn1 = build_norm(norm, 2 * channels, spatial=True)
            self.predicted_bn2 = build_norm(norm, channels, spatial=True)
        self.gate = ChannelGate(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, 'B C H W'], passes: int = 0) -> Float[Tensor, 'B C H W']:
        """Apply the block to observed or predicted maps, see :func:`normalize`."""
        y = self.relu(normalize(self.conv1(x), self.bn1, self.predicted_bn1, passes))
        y = self.relu(normalize(self.conv2(y), self.bn2, self.predicted_bn2, passes))
        return (self.gate(y) + x).relu()
