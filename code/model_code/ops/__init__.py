"""Operators in plain PyTorch and torchvision, with the same results on every device."""

from .deform_attention import multi_scale_deformable_attention
from .deform_conv import DeformConv2dPack
from .mmcv_extension import guard_spconv, install_mmcv_extension
from .splat import splat

__all__ = [
    'DeformConv2dPack',
    'guard_spconv',
    'install_mmcv_extension',
    'multi_scale_deformable_attention',
    'splat',
]
