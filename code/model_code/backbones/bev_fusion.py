"""Fusion of the camera and LiDAR BEV maps into the BEV feature map."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from thinktwice.model_code.backbones.squeeze_excite import SqueezeExciteBlock
from thinktwice.registry import MODELS


def _conv_norm(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


@MODELS.register_module()
class BEVFusion(BaseModule):
    """Residual fusion of two BEV maps of the same ground range.

    Args:
        camera_channels: Channels of the camera map and of the hidden layers.
        lidar_channels: Channels of the LiDAR map.
        out_channels: Channels of the fused map.
        lidar_strides: Strides of the convolutions that bring the LiDAR map to the size of the camera
            map. Any remaining difference in size is interpolated bilinearly.
        reduce_norm: Whether the convolution that reduces the channels has a batch norm. The paper's has
            none: if training begins by shrinking the map to the size of the teacher's, most of its units
            fall silent for every sample and stay so.
    """

    def __init__(
        self,
        camera_channels: int,
        lidar_channels: int,
        out_channels: int,
        lidar_strides: Sequence[int] = (2, 2),
        reduce_norm: bool = False,
    ) -> None:
        super().__init__(init_cfg={'type': 'Xavier', 'layer': 'Conv2d', 'distribution': 'normal'})
        C = camera_channels
        self.camera_conv = nn.Sequential(*_conv_norm(C, C), nn.ReLU(inplace=True), *_conv_norm(C, C))
        lidar_layers: list[nn.Module] = []
        for i, stride in enumerate(lidar_strides):
            lidar_layers += [*_conv_norm(C if i else lidar_channels, C, stride), nn.ReLU(inplace=True)]
        self.lidar_conv = nn.Sequential(*lidar_layers)
        self.fusion_conv = nn.Sequential(*_conv_norm(2 * C, C), nn.ReLU(inplace=True), *_conv_norm(C, C))
        self.reduce_conv = nn.Conv2d(C, out_channels, 3, padding=1)
        self.reduce_norm = nn.BatchNorm2d(out_channels) if reduce_norm else nn.Identity()
        self.refine_block = SqueezeExciteBlock(out_channels)

    def forward(
        self,
        camera_bev: Float[Tensor, 'B camera_channels X Y'],
        lidar_bev: Float[Tensor, 'B lidar_channels _ _'],
    ) -> Float[Tensor, 'B out_channels X Y']:
        """Fuse two maps of the same ground range and orientation, which may differ in size."""
        camera = (self.camera_conv(camera_bev) + camera_bev).relu()
        lidar = self.lidar_conv(lidar_bev)
        if lidar.shape[-2:] != camera.shape[-2:]:
            lidar = F.interpolate(lidar, camera.shape[-2:], mode='bilinear', align_corners=False)
        fused = self.fusion_conv(torch.cat((camera, lidar), dim=1))
        fused = (fused + camera + lidar).relu()
        return self.refine_block(self.reduce_norm(self.reduce_conv(fused)).relu())
