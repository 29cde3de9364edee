"""Operators in plain PyTorch, with the same results on every device."""

from .deform_conv import DeformConv2dPack
from .mmcv_extension import guard_spconv, install_mmcv_extension
from .sampling import bilinear_rows, weighted_rows
from .splat import splat
from .voxelize import voxelize_batch

__all__ = [
    'DeformConv2dPack',
    'bilinear_rows',
    'guard_spconv',
    'install_mmcv_extension',
    'splat',
    'voxelize_batch',
    'weighted_rows',
]
