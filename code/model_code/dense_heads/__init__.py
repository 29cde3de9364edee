"""Planners. The paper's decoder: coarse head, look modules, prediction module and refine layers."""

from thinktwice.model_code.dense_heads.coarse_head import CoarseHead, CoarsePrediction
from thinktwice.model_code.dense_heads.ego_status_planner import EgoStatusPlanner
from thinktwice.model_code.dense_heads.interfaces import (
    ImageContext,
    LookContext,
    Planner,
    SceneState,
    TeacherInputs,
)
from thinktwice.model_code.dense_heads.look_camera import CameraLook
from thinktwice.model_code.dense_heads.look_lidar import LidarLook
from thinktwice.model_code.dense_heads.prediction_module import PredictionModule
from thinktwice.model_code.dense_heads.refine_layer import RefineLayer
from thinktwice.model_code.dense_heads.tcp_head import TCPHead
from thinktwice.model_code.dense_heads.thinktwice_decoder import ThinkTwiceDecoder
from thinktwice.model_code.dense_heads.waypoint_gru import GRUPlanner

__all__ = [
    'CameraLook',
    'CoarseHead',
    'CoarsePrediction',
    'EgoStatusPlanner',
    'GRUPlanner',
    'ImageContext',
    'LidarLook',
    'LookContext',
    'Planner',
    'PredictionModule',
    'RefineLayer',
    'SceneState',
    'TCPHead',
    'TeacherInputs',
    'ThinkTwiceDecoder',
]
