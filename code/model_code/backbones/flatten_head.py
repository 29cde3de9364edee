"""From the BEV feature, level by level, to one vector."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.model_code.backbones.squeeze_excite import SqueezeExciteBlock, build_norm
from thinktwice.registry import MODELS

KERNEL = 3


@MODELS.register_module()
class BEVFlattenHead(BaseModule):
    """Shrink a BEV feature as the teacher does, and flatten it.

    The same head (and the same running statistics) serves the observed map and the maps
    that the decoder predicts.

    Args:
        bev_size: Rows (forward) and columns (lateral) of the BEV feature.
        in_channels: Channels of the BEV feature.
        level_channels: Channels of each smaller level.
        level_strides: Stride of the unpadded 3x3 convolution that leads to each level.
        hidden_channels: Width of the hidden layer before the vector.
        out_channels: Length of the vector.
        norm: ``'batch'``, as in the paper, mixes the statistics of observed and predicted
            maps; ``'group'`` treats each map alone (docs/reference_quirks, M30).

    Raises:
        ValueError: If channels and strides differ in number, a level would be empty, or
            ``norm`` is unknown.
    """

    def __init__(
        self,
        bev_size: tuple[int, int],
        in_channels: int = 32,
        level_channels: Sequence[int] = (64, 128, 256),
        level_strides: Sequence[int] = (2, 2, 1),
        hidden_channels: int = 512,
        out_channels: int = 256,
        norm: str = 'batch',
    ) -> None:
        super().__init__(init_cfg={'type': 'Xavier', 'layer': ['Conv2d', 'Linear'], 'distribution': 'normal'})
        if len(level_channels) != len(level_strides):
            raise ValueError(
                f'level_channels {tuple(level_channels)} and level_strides {tuple(level_strides)} '
                'differ in number'
            )
        self.level_sizes = _level_sizes(bev_size, level_strides)
        channels = [in_channels, *level_channels]
        self.downsample_convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], KERNEL, stride) for i, stride in enumerate(level_strides)
        )
        self.blocks = nn.ModuleList(SqueezeExciteBlock(width, norm) for width in level_channels)
        rows, columns = self.level_sizes[-1]
        self.vector_head = nn.Sequential(
            nn.Linear(channels[-1] * rows * columns, hidden_channels),
            nn.ReLU(inplace=True),
            # one value per sample and channel: training with one sample has no batch statistics
            build_norm(norm, hidden_channels, spatial=False),
            nn.Linear(hidden_channels, out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, bev: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Flatten.

        Args:
            bev: (B, in_channels, X, Y) BEV feature, observed or predicted.

        Returns:
            Vector (B, out_channels) and the levels after the first, large to small; at the
            paper's size (B, 64, 10, 10), (B, 128, 4, 4), (B, 256, 2, 2).
        """
        levels: list[Tensor] = []
        for downsample, block in zip(self.downsample_convs, self.blocks, strict=True):
            bev = block(downsample(bev).relu())
            levels.append(bev)
        return self.vector_head(bev.flatten(1)), levels


def _level_sizes(bev_size: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns of the BEV feature and of each level after it."""
    sizes = [(int(bev_size[0]), int(bev_size[1]))]
    for stride in strides:
        rows, columns = ((size - KERNEL) // stride + 1 for size in sizes[-1])
        if rows < 1 or columns < 1:
            raise ValueError(
                f'bev_size {tuple(bev_size)} is too small for level_strides {tuple(strides)}: the level '
                f'after {sizes[-1]} would be empty; use fewer levels or a finer grid'
            )
        sizes.append((rows, columns))
    return sizes
