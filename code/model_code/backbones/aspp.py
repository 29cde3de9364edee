"""Atrous spatial pyramid pooling (Chen et al., DeepLab v3, 2017)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.model_code.backbones.single_value_batch_norm import SingleValueBatchNorm2d


class ASPP(BaseModule):
    """Parallel dilated convolutions and global average pooling, merged by a 1x1 convolution.

    Convolutions are initialized from a Kaiming normal with the gain of ReLU.

    Args:
        channels: Channels of the input, of each branch and of the output.
        dilations: Dilation of each branch in pixels of the feature map; 1 means a 1x1 convolution.
        dropout: Dropout probability of the output.
    """

    def __init__(self, channels: int, dilations: Sequence[int], dropout: float) -> None:
        super().__init__(
            init_cfg={'type': 'Kaiming', 'layer': 'Conv2d', 'mode': 'fan_in', 'distribution': 'normal'}
        )
        self.branches = nn.ModuleList(_dilated_branch(channels, dilation) for dilation in dilations)
        self.global_branch = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels, 1, bias=False),
            # one value per image and channel: a single image has no batch statistics
            SingleValueBatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.merge = nn.Sequential(
            nn.Conv2d(channels * (len(dilations) + 1), channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )

    def forward(self, x: Float[Tensor, 'B C H W']) -> Float[Tensor, 'B C H W']:
        """Pool at all scales."""
        pooled = [branch(x) for branch in self.branches]
        pooled.append(self.global_branch(x).expand(-1, -1, *x.shape[-2:]))
        return self.merge(torch.cat(pooled, dim=1))


def _dilated_branch(channels: int, dilation: int) -> nn.Sequential:
    kernel, padding = (1, 0) if dilation == 1 else (3, dilation)
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
