"""Operators in plain PyTorch and torchvision, with the same results on every device."""

from .deform_conv import DeformConv2dPack
from .mmcv_extension import guard_spconv, install_mmcv_extension
from .splat import splat
from .voxelize import voxelize_batch

__all__ = [
    'DeformConv2dPack',
    'guard_spconv',
    'install_mmcv_extension',
    'splat',
    'voxelize_batch',
]
