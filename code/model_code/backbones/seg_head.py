"""Semantic segmentation of the images, and features of the predicted classes for the BEV map."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.registry import MODELS


class UpBlock(nn.Module):
    """Upsample by two and merge with the finer level.

    Args:
        in_channels: Channels of the coarse level.
        skip_channels: Channels of the finer level.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.merge = nn.Sequential(
            nn.Conv2d(out_channels + skip_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True)
        )

    def forward(
        self, x: Float[Tensor, 'B in_channels _ _'], skip: Float[Tensor, 'B skip_channels h w']
    ) -> Float[Tensor, 'B out_channels h w']:
        """Merge a level with the next finer one, which must be twice as large."""
        x = self.up(x)
        if x.shape[-2:] != skip.shape[-2:]:
            raise ValueError(
                f'a level of {tuple(skip.shape[-2:])} is not twice the next coarser one: image height and '
                'width must be multiples of the coarsest stride of the neck'
            )
        return self.merge(torch.cat((x, skip), dim=1))


@MODELS.register_module()
class UNetSegmentationHead(BaseModule):
    """U-Net decoder (Ronneberger et al., 2015) from a feature pyramid to class logits.

    The logits have twice the resolution of the finest level. The head has no normalization layers.

    Args:
        in_channels: Channels of each level, fine to coarse.
        up_channels: Channels after each merge, coarse to fine: one entry fewer than ``in_channels``.
        head_channels: Channels of the last two 3x3 convolutions.
        num_classes: Number of classes, including the background.

    Raises:
        ValueError: If ``up_channels`` has the wrong length.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        up_channels: Sequence[int],
        head_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        if len(up_channels) != len(in_channels) - 1:
            raise ValueError(
                f'up_channels needs one entry fewer than in_channels, got {up_channels} and {in_channels}'
            )
        skips = list(in_channels[-2::-1])  # second coarsest to finest
        inputs = [in_channels[-1], *up_channels[:-1]]
        self.up_blocks = nn.ModuleList(
            UpBlock(*channels) for channels in zip(inputs, skips, up_channels, strict=True)
        )
        finest = up_channels[-1] if up_channels else in_channels[0]
        self.refine = nn.Sequential(
            nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True),
            nn.Conv2d(finest, head_channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(head_channels, head_channels, 3, padding=1, bias=False),
        )
        self.classify = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, levels: Sequence[Float[Tensor, 'B _ _ _']]) -> Float[Tensor, 'B classes _ _']:
        """Predict class logits at twice the size of the finest level.

        Args:
            levels: Levels of the neck, fine to coarse, each half the size of the previous one.

        Raises:
            ValueError: If a level is not exactly half the size of the previous one.
        """
        x = levels[-1]
        for block, skip in zip(self.up_blocks, reversed(levels[:-1]), strict=True):
            x = block(x, skip)
        return self.classify(self.refine(x))


@MODELS.register_module()
class SegmentationFeatureBranch(BaseModule):
    """Features of the predicted classes at the size of the lifted level.

    Args:
        num_classes: Channels of the segmentation logits.
        units: (channels, kernel size, stride) of each convolution with batch normalization and ReLU;
            together the strides downsample the logits to the size of the lifted level.
    """

    def __init__(self, num_classes: int, units: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = num_classes
        for channels, kernel, stride in units:
            layers += [
                nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            in_channels = channels
        self.out_channels = in_channels
        self.layers = nn.Sequential(*layers)

    def forward(self, seg_logits: Float[Tensor, 'B classes H W']) -> Float[Tensor, 'B out_channels h w']:
        """Compute features; no gradient flows back into the logits, which only their labels train."""
        return self.layers(seg_logits.detach())
