"""A convolution block with channel attention (Hu et al., "Squeeze-and-Excitation Networks", 2018)."""

import math

from torch import Tensor, nn

from thinktwice.model_code.backbones.single_value_batch_norm import (
    SingleValueBatchNorm1d,
    SingleValueBatchNorm2d,
)

#: groups of the batch-free norm; fewer where the channels do not divide
NUM_GROUPS = 8


def build_norm(kind: str, channels: int, spatial: bool) -> nn.Module:
    """Make a normalization that trains on any number of samples.

    Args:
        kind: ``'batch'``, as in the paper, or ``'group'``, free of batch statistics.
        channels: Channels of the input.
        spatial: Whether the input is (B, C, H, W) rather than (B, C).

    Raises:
        ValueError: If the kind is neither.
    """
    if kind == 'batch':
        return SingleValueBatchNorm2d(channels) if spatial else SingleValueBatchNorm1d(channels)
    if kind == 'group':
        return nn.GroupNorm(math.gcd(NUM_GROUPS, channels), channels)
    raise ValueError(f"norm must be 'batch' or 'group', got {kind!r}")


class ChannelGate(nn.Module):
    """Gate channels by their mean and maximum over space.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels, 1)
        self.fc2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (B, C, H, W) by gates in (0, 1)."""
        summary = 0.5 * x.mean(dim=(-2, -1), keepdim=True) + 0.5 * x.amax(dim=(-2, -1), keepdim=True)
        return x * self.fc2(self.fc1(summary).relu()).sigmoid()


class SqueezeExciteBlock(nn.Module):
    """Two 3x3 convolutions through twice the channels, gated, around a shortcut.

    Args:
        channels: Channels of input and output.
        norm: Kind of normalization, see :func:`build_norm`.
    """

    def __init__(self, channels: int, norm: str = 'batch') -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.bn1 = build_norm(norm, 2 * channels, spatial=True)
        self.conv2 = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.bn2 = build_norm(norm, channels, spatial=True)
        self.gate = ChannelGate(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C, H, W) to the same shape."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return (self.gate(y) + x).relu()
