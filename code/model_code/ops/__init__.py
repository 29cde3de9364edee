"""Operators in plain torch and torchvision, the same on every device."""

from .deform_conv import DeformConv2dPack
from .mmcv_extension import guard_spconv, install_mmcv_extension

__all__ = ['DeformConv2dPack', 'guard_spconv', 'install_mmcv_extension']
