"""Fusion of the camera and LiDAR BEV maps into the BEV feature map."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from thinktwice.errors import ConfigError
from thinktwice.model_code.backbones.squeeze_excite import SqueezeExciteBlock
from thinktwice.registry import MODELS


def _conv_norm(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


def _check_given(name: str, conv: nn.Module | None, bev: Tensor | None) -> None:
    if (conv is None) != (bev is None):
        channels = f'{name}_channels'
        given, change = ('no', f'set {channels}=None') if bev is None else ('a', f'configure {channels}')
        raise ConfigError(f'model.bev_fusion is given {given} {name} map: {change}, or change {name} encoder')


@MODELS.register_module()
class BEVFusion(BaseModule):
    """Residual fusion of two BEV maps of the same ground range, or residual layers over the only one.

    Args:
        camera_channels: Channels of the camera map and of the hidden layers; None without camera map. The
            hidden layers then have the channels of the LiDAR map.
        lidar_channels: Channels of the LiDAR map; None without LiDAR map.
        out_channels: Channels of the fused map.
        lidar_strides: Strides of the convolutions that bring the LiDAR map to the size of the camera
            map. Any remaining difference in size is interpolated bilinearly.
        reduce_norm: Whether the convolution that reduces the channels has a batch norm. The paper's has
            none: if training begins by shrinking the map to the size of the teacher's, most of its units
            fall silent for every sample and stay so.

    Raises:
        ConfigError: If there is neither a camera map nor a LiDAR map; in the forward pass, if a map is given
            without its channels configured or the other way around.
    """

    def __init__(
        self,
        camera_channels: int | None,
        lidar_channels: int | None,
        out_channels: int,
        lidar_strides: Sequence[int] = (2, 2),
        reduce_norm: bool = False,
    ) -> None:
        super().__init__(init_cfg={'type': 'Xavier', 'layer': 'Conv2d', 'distribution': 'normal'})
        C = camera_channels or lidar_channels
        if not C:
            raise ConfigError('BEVFusion needs camera_channels, lidar_channels or both')
        self.camera_conv: nn.Module | None = None
        self.lidar_conv: nn.Module | None = None
        if camera_channels:
            self.camera_conv = nn.Sequential(*_conv_norm(C, C), nn.ReLU(inplace=True), *_conv_norm(C, C))
        if lidar_channels:
            lidar_layers: list[nn.Module] = []
            for i, stride in enumerate(lidar_strides):
                lidar_layers += [*_conv_norm(C if i else lidar_channels, C, stride), nn.ReLU(inplace=True)]
            self.lidar_conv = nn.Sequential(*lidar_layers)
        maps = bool(camera_channels) + bool(lidar_channels)
        self.fusion_conv = nn.Sequential(*_conv_norm(maps * C, C), nn.ReLU(inplace=True), *_conv_norm(C, C))
        self.reduce_conv = nn.Conv2d(C, out_channels, 3, padding=1)
        self.reduce_norm = nn.BatchNorm2d(out_channels) if reduce_norm else nn.Identity()
        self.refine_block = SqueezeExciteBlock(out_channels)

    def forward(
        self,
        camera_bev: Float[Tensor, 'B camera_channels X Y'] | None,
        lidar_bev: Float[Tensor, 'B lidar_channels _ _'] | None,
    ) -> Float[Tensor, 'B out_channels X Y']:
        """Fuse the maps of the same ground range and orientation, which may differ in size."""
        _check_given('camera', self.camera_conv, camera_bev)
        _check_given('lidar', self.lidar_conv, lidar_bev)
        maps: list[Tensor] = []
        if self.camera_conv is not None:
            maps.append((self.camera_conv(camera_bev) + camera_bev).relu())
        if self.lidar_conv is not None:
            maps.append(self.lidar_conv(lidar_bev))
        if maps[-1].shape[-2:] != maps[0].shape[-2:]:
            maps[-1] = F.interpolate(maps[-1], maps[0].shape[-2:], mode='bilinear', align_corners=False)
        fused = self.fusion_conv(torch.cat(maps, dim=1))
        for bev in maps:
            fused = fused + bev
        return self.refine_block(self.reduce_norm(self.reduce_conv(fused.relu())).relu())
