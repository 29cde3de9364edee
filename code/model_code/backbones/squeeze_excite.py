"""A convolution block with channel attention (Hu et al., "Squeeze-and-Excitation Networks", 2018)."""

from torch import Tensor, nn

from thinktwice.model_code.backbones.few_rows_norm import FewRowsBatchNorm2d


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
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.bn1 = FewRowsBatchNorm2d(2 * channels)
        self.conv2 = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.bn2 = FewRowsBatchNorm2d(channels)
        self.gate = ChannelGate(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C, H, W) to the same shape."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return (self.gate(y) + x).relu()
