"""Losses: the terms of the training objective, one registered module each."""

from thinktwice.model_code.losses.base import DrivingLoss, beta_kl, smooth_l1
from thinktwice.model_code.losses.depth import DepthLoss
from thinktwice.model_code.losses.distillation import (
    BEVFeatureLoss,
    FeatureLoss,
    RefineFeatureLoss,
    TeacherForcingFeatureLoss,
    TeacherForcingOffsetLoss,
    ValueLoss,
)
from thinktwice.model_code.losses.plan import ActionLoss, PlanOffsets, SpeedLoss, WaypointLoss
from thinktwice.model_code.losses.segmentation import SegmentationLoss

__all__ = [
    'ActionLoss',
    'BEVFeatureLoss',
    'DepthLoss',
    'DrivingLoss',
    'FeatureLoss',
    'PlanOffsets',
    'RefineFeatureLoss',
    'SegmentationLoss',
    'SpeedLoss',
    'TeacherForcingFeatureLoss',
    'TeacherForcingOffsetLoss',
    'ValueLoss',
    'WaypointLoss',
    'beta_kl',
    'smooth_l1',
]
