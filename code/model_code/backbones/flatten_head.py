"""BEV feature map to smaller maps and one vector, as in the teacher."""

from collections.abc import Sequence

from jaxtyping import Float
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.model_code.backbones.squeeze_excite import SqueezeExciteBlock, build_norm, normalize
from thinktwice.registry import MODELS

KERNEL = 3


@MODELS.register_module()
class BEVFlattenHead(BaseModule):
    """Downsample a BEV feature map level by level, and flatten it to a vector.

    The levels have the shapes of the teacher's. The same head (and the same running statistics) is
    applied to the observed map and to the maps that the decoder predicts.

    Args:
        bev_size: Rows (forward) and columns (lateral) of the BEV feature map.
        in_channels: Channels of the BEV feature map.
        level_channels: Channels of each smaller level.
        level_strides: Stride of the unpadded 3x3 convolution that leads to each level.
        hidden_channels: Channels of the hidden layer before the vector.
        out_channels: Channels of the vector.
        norm: ``'batch'``, as in the paper, or ``'group'``, which normalizes each map by itself but keeps
            the constant part of each channel, so that little of what differs between samples is left.
        separate_norms: Whether predicted maps have normalization layers of their own; the paper shares
            them with observed maps, whose statistics differ (docs/reference_quirks, M30).

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
        separate_norms: bool = False,
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
        self.blocks = nn.ModuleList(
            SqueezeExciteBlock(width, norm, separate_norms) for width in level_channels
        )
        rows, columns = self.level_sizes[-1]
        self.vector_head = nn.Sequential(
            nn.Linear(channels[-1] * rows * columns, hidden_channels),
            nn.ReLU(inplace=True),
            # one value per sample and channel: a batch of one sample has no batch statistics
            build_norm(norm, hidden_channels, spatial=False),
            nn.Linear(hidden_channels, out_channels),
            nn.ReLU(inplace=True),
        )
        self.predicted_vector_norm = (
            build_norm(norm, hidden_channels, spatial=False) if separate_norms else None
        )

    def forward(
        self, bev: Float[Tensor, 'B C X Y'], passes: int = 0
    ) -> tuple[Float[Tensor, 'B Cv'], list[Float[Tensor, 'B _ _ _']]]:
        """Flatten observed or predicted BEV feature maps.

        Args:
            bev: The maps; those that a pass of the decoder predicted follow those of the pass before it.
            passes: Passes that predicted the maps, each with batch statistics of its own; 0 for observed
                maps.

        Returns:
            The vector and the smaller levels, large to small; in the paper's model
            (B, 64, 10, 10), (B, 128, 4, 4), (B, 256, 2, 2).
        """
        levels: list[Tensor] = []
        for downsample, block in zip(self.downsample_convs, self.blocks, strict=True):
            bev = block(downsample(bev).relu(), passes)
            levels.append(bev)
        first, relu, norm, second, last_relu = self.vector_head
        hidden = normalize(relu(first(bev.flatten(1))), norm, self.predicted_vector_norm, passes)
        return last_relu(second(hidden)), levels


def _level_sizes(bev_size: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns of the BEV feature map and of each smaller level."""
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
