"""Sensor encoders, and their fusion into a BEV feature map."""

from .bev_fusion import BEVFusion
from .camera_encoder import CameraFeatures, FrameCameras, FrameMemory, LSSCameraEncoder
from .depth_net import CameraAwareDepthNet
from .flatten_head import BEVFlattenHead
from .image_scene_encoder import ImageSceneEncoder
from .lidar_encoder import LidarEncoder
from .measurement_encoder import MeasurementEncoder
from .seg_head import SegmentationFeatureBranch, UNetSegmentationHead
from .single_value_batch_norm import SingleValueBatchNorm1d, SingleValueBatchNorm2d
from .timm_backbone import TimmBackbone
from .transfuser_encoder import TransFuserEncoder
from .view_transform import LiftSplat

__all__ = [
    'BEVFlattenHead',
    'BEVFusion',
    'CameraAwareDepthNet',
    'CameraFeatures',
    'SingleValueBatchNorm1d',
    'SingleValueBatchNorm2d',
    'FrameCameras',
    'FrameMemory',
    'ImageSceneEncoder',
    'LSSCameraEncoder',
    'LidarEncoder',
    'MeasurementEncoder',
    'LiftSplat',
    'SegmentationFeatureBranch',
    'TimmBackbone',
    'TransFuserEncoder',
    'UNetSegmentationHead',
]
