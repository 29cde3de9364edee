"""A whole driving model of some ten thousand weights, and batches for it."""

import torch
from helpers.small_decoder import PARTS, SIZES, randomize_offsets
from helpers.small_encoders import (
    CHANNELS,
    DEPTH_BOUNDS,
    GRID,
    IMAGE_SIZE,
    camera_encoder_config,
    image_batch,
    lidar_encoder_config,
    point_cloud,
)

from thinktwice.registry import MODELS

BEV_SIZE = (12, 9)  # cells of x and of y in GRID
LEVEL_CHANNELS = (4, 6)
LIDAR_CHANNELS = 16
LOSSES = [
    {'type': 'ActionLoss', 'weight': 15.0, 'future_weight': 3.75},
    {'type': 'WaypointLoss', 'weight': 15.0},
    {'type': 'SpeedLoss', 'weight': 1.0, 'speed_scale': 12.0},
    {'type': 'ValueLoss', 'weight': 0.001},
    {'type': 'FeatureLoss', 'weight': 0.05},
    {'type': 'BEVFeatureLoss', 'levels': (2, 3, 4), 'weights': (0.25, 0.25, 0.25), 'max_error': 5.0},
    {'type': 'RefineFeatureLoss', 'map_weight': 0.25, 'vector_weight': 0.005, 'level': 2, 'max_error': 5.0},
    {'type': 'TeacherForcingOffsetLoss', 'waypoint_weight': 1.0, 'action_weight': 1.0},
    {
        'type': 'TeacherForcingFeatureLoss',
        'future_weight': 0.25,
        'map_weight': 0.25,
        'vector_weight': 0.05,
        'level': 2,
        'max_error': 5.0,
    },
    {'type': 'SegmentationLoss', 'weight': 10.0, 'alpha': 0.5, 'gamma': 2.0, 'ignore_index': 255},
    {'type': 'DepthLoss', 'weight': 1.0, 'depth_bounds': DEPTH_BOUNDS},
    {'type': 'PlanOffsets'},
]


def small_driver(num_frames=2, losses=None, parts=None, **decoder):
    """The model with random weights.

    Args:
        num_frames: Frames of a sample.
        losses: Configs of the losses; None for all.
        parts: Arguments of the model that replace those of here; dicts are merged.
        decoder: Arguments of the decoder that replace those of here.
    """
    sizes = {**SIZES, 'fpn_channels': CHANNELS, 'lidar_channels': LIDAR_CHANNELS, 'vector_channels': 9}
    bounds = {'x_range': GRID['x_bounds'][:2], 'y_range': GRID['y_bounds'][:2]}
    model = MODELS.build(
        merged(
            parts or {},
            {
                'type': 'EncoderDecoder',
                'img_encoder': camera_encoder_config(num_frames=num_frames),
                'lidar_encoder': lidar_encoder_config(),
                'bev_fusion': {
                    'type': 'BEVFusion',
                    'camera_channels': CHANNELS,
                    'lidar_channels': LIDAR_CHANNELS,
                    'out_channels': 3,
                    'lidar_strides': (1,),
                },
                'flatten_head': {
                    'type': 'BEVFlattenHead',
                    'bev_size': BEV_SIZE,
                    'in_channels': 3,
                    'level_channels': LEVEL_CHANNELS,
                    'level_strides': (2, 1),
                    'hidden_channels': 8,
                    'out_channels': 9,
                },
                'measurement_encoder': {
                    'type': 'MeasurementEncoder',
                    'hidden_channels': 8,
                    'out_channels': 5,
                },
                'decoder': {'type': 'ThinkTwiceDecoder', **sizes, **PARTS, **bounds, **decoder},
                'losses': {f'term_{i}': loss for i, loss in enumerate(LOSSES if losses is None else losses)},
                'data_preprocessor': {'type': 'DrivingDataPreprocessor'},
            },
        )
    )
    model.init_weights()
    randomize_offsets(model.decoder)
    return model


def merged(changes, config):
    """A config with changes, in dicts key by key."""
    result = dict(config)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict)
        result[key] = merged(value, config[key]) if both else value
    return result


def inputs_for(batch=2, frames=2, cameras=4):
    """Inputs as the preprocessor hands them on."""
    return {
        **image_batch(batch, frames, cameras),
        'points': [point_cloud(300 + 50 * b) for b in range(batch)],
        'speed': 8 * torch.rand(batch),
        'target_point': 20 * torch.rand(batch, 2),
        'command': torch.randint(0, 6, (batch,)),
    }


def targets_for(batch=2, cameras=4, num_steps=4):
    """Supervision of every kind, drawn at random."""
    H, W = IMAGE_SIZE
    level_sizes = [(3, *BEV_SIZE), (4, 5, 4), (6, 3, 2)]
    return {
        'depth': 25 * torch.rand(batch, cameras, H, W),
        'seg': torch.randint(0, 5, (batch, cameras, H, W)).to(torch.uint8),
        'waypoints': torch.cumsum(3 * torch.rand(batch, num_steps, 2), 1),
        'value': torch.randn(batch),
        'feature': torch.randn(batch, 9),
        'grid_feature': [torch.randn(batch, *size) for size in level_sizes],
        'future_grid_feature': torch.randn(batch, num_steps, 3, *BEV_SIZE),
        'action_alpha': 1 + torch.rand(batch, 2),
        'action_beta': 1 + torch.rand(batch, 2),
        'future_action_alpha': 1 + torch.rand(batch, num_steps - 1, 2),
        'future_action_beta': 1 + torch.rand(batch, num_steps - 1, 2),
    }
