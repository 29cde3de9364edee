"""Scene encoder of TransFuser (Chitta et al., PAMI 2022): image and LiDAR features fused by transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from thinktwice.errors import ConfigError
from thinktwice.geometry.bev_grid import BEVGrid, to_teacher_orientation
from thinktwice.model_code.scene import ImagePyramid, SceneEncoder, SceneFeatures
from thinktwice.registry import MODELS

EMBEDDING_STD = 0.02


class FusionTransformer(BaseModule):
    """Self-attention among the cells of image and LiDAR feature maps of one resolution.

    Both maps are averaged to a fixed number of cells, which are the tokens. The outputs are interpolated to
    the sizes of the maps and added to them.

    Args:
        image_channels: Channels of the image map.
        lidar_channels: Channels of the LiDAR map.
        channels: Channels of the tokens.
        num_cameras: Cameras N.
        image_cells: Rows and columns of tokens of each camera.
        lidar_cells: Rows and columns of tokens of the LiDAR map.
        num_layers: Layers of the transformer.
        num_heads: Heads of the attention.
    """

    def __init__(
        self,
        image_channels: int,
        lidar_channels: int,
        channels: int,
        num_cameras: int,
        image_cells: tuple[int, int],
        lidar_cells: tuple[int, int],
        num_layers: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        self.image_cells = (image_cells[0], image_cells[1])
        self.lidar_cells = (lidar_cells[0], lidar_cells[1])
        self.num_image_tokens = num_cameras * image_cells[0] * image_cells[1]
        tokens = self.num_image_tokens + lidar_cells[0] * lidar_cells[1]
        self.position_embedding = nn.Parameter(
            nn.init.normal_(torch.empty(tokens, channels), std=EMBEDDING_STD)
        )
        self.image_in, self.lidar_in = (nn.Linear(c, channels) for c in (image_channels, lidar_channels))
        layer = nn.TransformerEncoderLayer(
            channels,
            num_heads,
            4 * channels,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(
            layer, num_layers, nn.LayerNorm(channels), enable_nested_tensor=False
        )
        self.image_out, self.lidar_out = (nn.Linear(channels, c) for c in (image_channels, lidar_channels))

    def forward(
        self, image: Float[Tensor, 'B N Ci h w'], lidar: Float[Tensor, 'B Cl X Y']
    ) -> tuple[Float[Tensor, 'B N Ci h w'], Float[Tensor, 'B Cl X Y']]:
        """Add to each map what the other sensor and distant cells tell."""
        B, N = image.shape[:2]
        image_tokens = F.adaptive_avg_pool2d(image.flatten(0, 1), self.image_cells).flatten(2).transpose(1, 2)
        lidar_tokens = F.adaptive_avg_pool2d(lidar, self.lidar_cells).flatten(2).transpose(1, 2)
        tokens = torch.cat(
            [self.image_in(image_tokens).reshape(B, self.num_image_tokens, -1), self.lidar_in(lidar_tokens)],
            dim=1,
        )
        tokens = self.transformer(tokens + self.position_embedding)
        of_images, of_lidar = tokens.tensor_split([self.num_image_tokens], dim=1)
        of_images = self.image_out(of_images).reshape(B * N, -1, image.shape[2]).transpose(1, 2)
        of_images = F.interpolate(
            of_images.unflatten(2, self.image_cells), image.shape[-2:], mode='bilinear', align_corners=False
        )
        of_lidar = F.interpolate(
            self.lidar_out(of_lidar).transpose(1, 2).unflatten(2, self.lidar_cells),
            lidar.shape[-2:],
            mode='bilinear',
            align_corners=False,
        )
        return image + of_images.unflatten(0, (B, N)), lidar + of_lidar


@MODELS.register_module()
class TransFuserEncoder(SceneEncoder):
    """Two backbones whose stages exchange features; the vector is the sum of their mean features.

    The LiDAR enters as an image of the ground with the numbers of points below and above ``split_height``
    in each cell. Unlike in the paper, the images are not joined to one wide image: each camera has
    tokens of its own.

    Args:
        image_backbone: Config of an ``mmdet.ResNet`` for the images.
        lidar_backbone: Config of an ``mmdet.ResNet`` with two input channels for the LiDAR.
        bev_grid: Arguments of :class:`BEVGrid` of the LiDAR image.
        num_cameras: Cameras N.
        channels: Channels of the fused vector.
        token_channels: Channels of the tokens of each stage.
        image_cells: Rows and columns of tokens of each camera.
        lidar_cells: Rows and columns of tokens of the LiDAR image.
        num_layers: Layers of each transformer.
        num_heads: Heads of the attention.
        split_height: Height above the ground that separates the two channels of the LiDAR image, meters.
        max_points: Numbers of points per cell are clamped to this and divided by it.
        init_cfg: Initialization config of mmengine.

    Raises:
        ConfigError: If a backbone has no stages, the two have a different number of stages, or
            ``token_channels`` has not one entry per stage.
    """

    input_keys = ('img', 'points', 'intrinsics', 'cam2ego', 'ida_mats')

    def __init__(
        self,
        image_backbone: dict[str, Any],
        lidar_backbone: dict[str, Any],
        bev_grid: Mapping[str, Any],
        num_cameras: int,
        channels: int = 512,
        token_channels: Sequence[int] = (64, 128, 256, 512),
        image_cells: tuple[int, int] = (5, 11),
        lidar_cells: tuple[int, int] = (8, 8),
        num_layers: int = 4,
        num_heads: int = 4,
        split_height: float = 0.2,
        max_points: int = 5,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_cameras = num_cameras
        self.split_height = split_height
        self.max_points = max_points
        self.bev_grid = BEVGrid(**bev_grid)
        self.image_backbone = MODELS.build(image_backbone)
        self.lidar_backbone = MODELS.build(lidar_backbone)
        widths = [stage_channels(b) for b in (self.image_backbone, self.lidar_backbone)]
        if not len(widths[0]) == len(widths[1]) == len(token_channels):
            raise ConfigError(
                f'model.scene_encoder: the backbones have {len(widths[0])} and {len(widths[1])} stages and '
                f'token_channels {len(token_channels)} entries: make them equal'
            )
        self.fusions = nn.ModuleList(
            FusionTransformer(
                image, lidar, tokens, num_cameras, image_cells, lidar_cells, num_layers, num_heads
            )
            for image, lidar, tokens in zip(*widths, token_channels, strict=True)
        )
        self.image_vector = nn.Linear(widths[0][-1], channels)
        self.lidar_vector = nn.Linear(widths[1][-1], channels)

    def forward(self, inputs: Mapping[str, Any]) -> SceneFeatures:
        """Encode images and points of the key frame.

        Raises:
            ConfigError: If the number of cameras differs from ``num_cameras``.
        """
        images = self.key_frame_images(inputs, self.num_cameras)
        B, N = images.shape[:2]
        image = stem(self.image_backbone, images.flatten(0, 1)).unflatten(0, (B, N))
        lidar = stem(self.lidar_backbone, self.lidar_image(inputs['points']))
        levels = []
        stages = zip(
            self.image_backbone.res_layers, self.lidar_backbone.res_layers, self.fusions, strict=True
        )
        for image_stage, lidar_stage, fusion in stages:
            image = getattr(self.image_backbone, image_stage)(image.flatten(0, 1)).unflatten(0, (B, N))
            lidar = getattr(self.lidar_backbone, lidar_stage)(lidar)
            image, lidar = fusion(image, lidar)
            levels.append(image)
        vector = self.image_vector(image.mean(dim=(1, -2, -1))) + self.lidar_vector(lidar.mean(dim=(-2, -1)))
        return SceneFeatures(vector=vector, images=ImagePyramid.of_key_frame(inputs, levels), lidar_map=lidar)

    @torch.no_grad()
    def lidar_image(self, points: Sequence[Float[Tensor, '_ 5']]) -> Float[Tensor, 'B 2 X Y']:
        """Count the points of the key frame in each cell below and above ``split_height``.

        Args:
            points: For each sample x, y, z (meters, ego frame), intensity, frame offset.

        Returns:
            0 to 1, in teacher orientation.
        """
        counts = points[0].new_zeros(len(points), 2 * self.bev_grid.num_cells, dtype=torch.float32)
        for row, cloud in zip(counts, points, strict=True):
            cell = self.bev_grid.cell_index(cloud[:, :3].float())
            is_counted = (cell >= 0) & (cloud[:, 4] == 0)
            channel = (cloud[:, 2] > self.split_height).long()
            index = cell.clamp(min=0) + channel * self.bev_grid.num_cells
            row.index_add_(0, index, is_counted.float())
        image = counts.clamp(max=self.max_points) / self.max_points
        return to_teacher_orientation(image.unflatten(1, (2, *self.bev_grid.index_shape)))


def stage_channels(backbone: Any) -> list[int]:
    """Channels of the stages of an ``mmdet.ResNet``.

    Raises:
        ConfigError: If it is another backbone.
    """
    if not hasattr(backbone, 'res_layers'):
        raise ConfigError(
            'model.scene_encoder: TransFuserEncoder runs its backbones stage by stage, which needs '
            f'mmdet.ResNet or a subclass, not {type(backbone).__name__}'
        )
    planes = [backbone.base_channels * 2**stage for stage in range(len(backbone.res_layers))]
    return [channels * backbone.block.expansion for channels in planes]


def stem(backbone: Any, x: Float[Tensor, 'B _ _ _']) -> Float[Tensor, 'B _ _ _']:
    """The layers of an ``mmdet.ResNet`` before its first stage."""
    if backbone.deep_stem:
        return backbone.maxpool(backbone.stem(x))
    return backbone.maxpool(backbone.relu(backbone.norm1(backbone.conv1(x))))
