"""Encoders of a few thousand weights, and batches for them."""

import torch

import thinktwice.model_code  # noqa: F401  (registers the parts, mmdet's and mmdet3d's too)
from thinktwice.registry import MODELS

GRID = {'x_bounds': (-8.0, 16.0, 2.0), 'y_bounds': (-9.0, 9.0, 2.0), 'z_bounds': (-4.0, 10.0, 14.0)}
DEPTH_BOUNDS = (1.0, 21.0, 2.0)
NUM_BINS = 10
CHANNELS = 8
IMAGE_SIZE = (64, 128)


def camera_encoder_config(**overrides):
    """Config of a camera encoder over a ResNet-18 of eight channels; keywords replace arguments."""
    arguments = {
        'backbone': {
            'type': 'mmdet.ResNet',
            'depth': 18,
            'base_channels': CHANNELS,
            'stem_channels': CHANNELS,
        },
        'neck': {
            'type': 'mmdet.PAFPN',
            'in_channels': [CHANNELS, 2 * CHANNELS, 4 * CHANNELS, 8 * CHANNELS],
            'out_channels': CHANNELS,
            'num_outs': 4,
        },
        'depth_net': {
            'type': 'CameraAwareDepthNet',
            'in_channels': 16,
            'mid_channels': 16,
            'context_channels': CHANNELS,
            'aspp_dilations': (1, 2),
            'num_residual_blocks': 1,
        },
        'seg_head': {
            'type': 'UNetSegmentationHead',
            'in_channels': (CHANNELS,) * 4,
            'up_channels': (CHANNELS,) * 3,
            'head_channels': 4,
            'num_classes': 5,
        },
        'seg_branch': {
            'type': 'SegmentationFeatureBranch',
            'num_classes': 5,
            'units': ((4, 3, 2), (4, 3, 2), (6, 3, 2)),
        },
        'view_transform': {'type': 'LiftSplat', 'bev_grid': GRID, 'depth_bounds': DEPTH_BOUNDS},
        'neck_channels': CHANNELS,
        'lift_level': 2,
        'out_channels': CHANNELS,
        'num_frames': 2,
    }
    return {'type': 'LSSCameraEncoder', **arguments, **overrides}


def camera_encoder(**overrides):
    """The encoder of :func:`camera_encoder_config`."""
    return MODELS.build(camera_encoder_config(**overrides))


def lidar_encoder_config(**overrides):
    """Config of a LiDAR encoder over 40 x 36 voxels of half a meter; keywords replace arguments."""
    norm = {'type': 'BN', 'eps': 1e-3, 'momentum': 0.01}
    arguments = {
        'voxelize': {
            'voxel_size': (0.5, 0.5, 0.5),
            'point_cloud_range': (-4.0, -9.0, -2.0, 16.0, 9.0, 8.0),
            'max_num_points': 3,
            'max_voxels': (400, 600),
        },
        'voxel_encoder': {'type': 'mmdet3d.HardSimpleVFE', 'num_features': 5},
        'middle_encoder': {
            'type': 'mmdet3d.SparseEncoder',
            'in_channels': 5,
            'sparse_shape': (9, 36, 40),  # 4.5 m of the 10 m: up to z = 2.5
            'order': ('conv', 'norm', 'act'),
            'block_type': 'basicblock',
            'norm_cfg': {'type': 'thinktwice.SingleValueBatchNorm1d', 'eps': 1e-3, 'momentum': 0.01},
            'base_channels': 4,
            'output_channels': 8,
            'encoder_channels': ((4, 4, 8), (8, 8)),
            'encoder_paddings': ((0, 0, 1), (0, 0)),
        },
        'backbone': {
            'type': 'mmdet3d.SECOND',
            'in_channels': 16,
            'out_channels': [8, 8],
            'layer_nums': [1, 1],
            'layer_strides': [1, 2],
            'norm_cfg': norm,
            'conv_cfg': {'type': 'Conv2d', 'bias': False},
        },
        'neck': {
            'type': 'mmdet3d.SECONDFPN',
            'in_channels': [8, 8],
            'out_channels': [8, 8],
            'upsample_strides': [1, 2],
            'norm_cfg': norm,
            'upsample_cfg': {'type': 'deconv', 'bias': False},
            'use_conv_for_no_stride': True,
        },
    }
    return {'type': 'LidarEncoder', **arguments, **overrides}


def lidar_encoder(**overrides):
    """The encoder of :func:`lidar_encoder_config`."""
    return MODELS.build(lidar_encoder_config(**overrides))


def camera_rig(num_cameras=4):
    """Camera-to-ego matrices (N, 4, 4) of cameras that look ahead, left, right and back."""
    axes = {'ahead': ((0, 0, 1), (1, 0, 0)), 'left': ((1, 0, 0), (0, 0, -1)),
            'right': ((-1, 0, 0), (0, 0, 1)), 'back': ((0, 0, -1), (-1, 0, 0))}  # fmt: skip
    positions = torch.tensor([[1.5, 0, 2.5], [0, -0.3, 2.5], [0, 0.3, 2.5], [-1.6, 0, 2.5]])
    cam2ego = torch.eye(4).repeat(4, 1, 1)
    for i, (x_row, y_row) in enumerate(axes.values()):
        cam2ego[i, :3, :3] = torch.tensor([x_row, y_row, (0, -1, 0)])
        cam2ego[i, :3, 3] = positions[i]
    return cam2ego[:num_cameras]


def image_batch(batch=2, frames=2, cameras=4, image_size=IMAGE_SIZE):
    """Arguments of the camera encoder's forward: random images, a rig that drives 2 m a frame."""
    H, W = image_size
    intrinsics = torch.tensor([[0.4 * W, 0, W / 2], [0, 0.4 * W, H / 2], [0, 0, 1]])
    ida = torch.eye(4).repeat(batch, frames, cameras, 1, 1)
    ida[..., 0, 0] = 1 + 0.1 * torch.rand(batch, 1, cameras)
    ida[..., 1, 3] = -4 * torch.rand(batch, 1, cameras)
    frame2key = torch.eye(4).repeat(batch, frames, 1, 1)
    frame2key[:, :, 0, 3] = -2.0 * torch.arange(frames).flip(0)
    return {
        'img': torch.randn(batch, frames, cameras, 3, H, W),
        'intrinsics': intrinsics.repeat(batch, frames, cameras, 1, 1),
        'cam2ego': camera_rig(cameras).repeat(batch, frames, 1, 1, 1),
        'frame2key': frame2key,
        'ida_mats': ida,
    }


def point_cloud(num_points=400, top=2.4):
    """Points (P, 5) inside the range of :func:`lidar_encoder`, below ``top`` meters."""
    low = torch.tensor([-4.0, -9.0, -2.0, 0.0, 0.0])
    high = torch.tensor([16.0, 9.0, top, 1.0, 0.0])
    return low + (high - low) * torch.rand(num_points, 5)


def parameters_without_gradient(module):
    """Names of the trainable parameters that the last backward pass did not reach."""
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
