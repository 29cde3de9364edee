"""Encoders of the sensors and their fusion."""

from .bev_fusion import BEVFusion
from .camera_encoder import CameraFeatures, FrameCameras, LSSCameraEncoder
from .depth_net import CameraAwareDepthNet
from .few_rows_norm import FewRowsBatchNorm1d, FewRowsBatchNorm2d
from .flatten_head import BEVFlattenHead
from .lidar_encoder import LidarEncoder
from .measurement_encoder import MeasurementEncoder
from .seg_head import SegmentationFeatureBranch, UNetSegmentationHead
from .view_transform import LiftSplat

__all__ = [
    'BEVFlattenHead',
    'BEVFusion',
    'CameraAwareDepthNet',
    'CameraFeatures',
    'FewRowsBatchNorm1d',
    'FewRowsBatchNorm2d',
    'FrameCameras',
    'LSSCameraEncoder',
    'LidarEncoder',
    'MeasurementEncoder',
    'LiftSplat',
    'SegmentationFeatureBranch',
    'UNetSegmentationHead',
]
