"""A decoder of a few thousand weights, and the inputs it takes."""

import torch
from helpers.small_encoders import camera_rig
from torch import nn

from thinktwice.model_code.dense_heads import (
    ImageContext,
    LookContext,
    TeacherInputs,
    ThinkTwiceDecoder,
)
from thinktwice.model_code.dense_heads.image_tokens import ImageTokens
from thinktwice.model_code.projection import ego_to_image
from thinktwice.model_code.scene import ImagePyramid, Measurements, SceneFeatures

IMAGE_SIZE = (64, 128)
SIZES = {
    'num_refine_layers': 2,
    'num_steps': 4,
    'num_cameras': 4,
    'num_levels': 4,
    'fpn_channels': 6,
    'image_channels': 8,
    'vector_channels': 10,
    'bev_channels': 3,
    'measurement_channels': 5,
    'lidar_channels': 7,
    'embed_channels': 4,
}
PARTS = {
    'coarse_head': {'type': 'CoarseHead', 'feature_channels': 9, 'hidden_channels': 16},
    'camera_look': {
        'type': 'CameraLook',
        'num_heads': 2,
        'num_points': 3,
        'hidden_channels': 16,
        'out_channels': 6,
    },
    'lidar_look': {
        'type': 'LidarLook',
        'hidden_channels': 8,
        'point_channels': 5,
        'out_channels': 6,
    },
    'refine_layer': {'type': 'RefineLayer', 'hidden_channels': 64},
}


class MeanFlattenHead(nn.Module):
    """Stands in for the flatten head: the mean over the map, projected."""

    def __init__(self, bev_channels, vector_channels):
        super().__init__()
        self.linear = nn.Linear(bev_channels, vector_channels)

    def forward(self, bev, passes=0):
        return self.linear(bev.mean((2, 3))), []


def small_decoder(**overrides):
    """Decoder with random weights; keywords replace arguments."""
    decoder = ThinkTwiceDecoder(**{**SIZES, **PARTS, **overrides})
    decoder.init_weights()
    randomize_offsets(decoder)
    return decoder


def randomize_offsets(decoder):
    """Let the layers predict offsets, which are zero at the start of a training."""
    for layer in decoder.layers:
        for module in (layer.traj_offset_module, layer.ctrl_offset_module):
            torch.nn.init.xavier_normal_(module[-1].weight)


def rig(batch=2, cameras=4, image_size=IMAGE_SIZE):
    """``ego2img`` and ``ida_mats`` (B, N, 4, 4) of the standard rig, the images a little scaled and moved."""
    H, W = image_size
    intrinsics = torch.tensor([[0.4 * W, 0, W / 2], [0, 0.4 * W, H / 2], [0, 0, 1]])
    cam2ego = camera_rig(cameras).repeat(batch, 1, 1, 1)
    ida = torch.eye(4).repeat(batch, cameras, 1, 1)
    ida[..., 0, 0] = 1 + 0.1 * torch.rand(batch, cameras)
    ida[..., 1, 3] = -4 * torch.rand(batch, cameras)
    return ego_to_image(intrinsics.repeat(batch, cameras, 1, 1), cam2ego), ida


def pyramid(batch=2, cameras=4, levels=4, channels=6, image_size=IMAGE_SIZE):
    """Image features, one (B, N, C, h, w) a level, strides 4, 8, ..."""
    H, W = image_size
    return [torch.randn(batch, cameras, channels, H // 2**i, W // 2**i) for i in range(2, 2 + levels)]


def decoder_inputs(batch=2, bev_size=(9, 9), **overrides):
    """Tensors for the sizes of :func:`small_decoder`, by name; :func:`arguments` groups them."""
    sizes = {**SIZES, **overrides}
    ego2img, ida_mats = rig(batch, sizes['num_cameras'])
    return {
        'bev_vector': torch.randn(batch, sizes['vector_channels']),
        'bev_map': torch.randn(batch, sizes['bev_channels'], *bev_size),
        'measurement': torch.randn(batch, sizes['measurement_channels']),
        'fpn': pyramid(batch, sizes['num_cameras'], sizes['num_levels'], sizes['fpn_channels']),
        'ego2img': ego2img,
        'ida_mats': ida_mats,
        'image_size': IMAGE_SIZE,
        'lidar_map': torch.randn(batch, sizes['lidar_channels'], 12, 12),
        'flatten_head': MeanFlattenHead(sizes['bev_channels'], sizes['vector_channels']),
    }


def arguments(inputs):
    """The tensors of :func:`decoder_inputs` as arguments of the decoder's forward."""
    images = ImagePyramid(inputs['fpn'], inputs['ego2img'], inputs['ida_mats'], inputs['image_size'])
    scene = {key: inputs[key] for key in ('bev_map', 'lidar_map', 'flatten_head')}
    features = inputs['measurement']
    status = (features.new_zeros(len(features)), features.new_full((len(features), 2), 5.0))
    command = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    return {
        'scene': SceneFeatures(vector=inputs['bev_vector'], images=images, **scene),
        'measurements': Measurements(*status, command, features),
    }


def teacher(batch=2, num_steps=4):
    """An expert that drives ahead."""
    steps = torch.arange(1, num_steps + 1).float()
    waypoints = torch.stack([3 * steps, 0.2 * steps], dim=-1).repeat(batch, 1, 1)
    return TeacherInputs(waypoints, 1 + torch.rand(batch, num_steps, 2), 1 + torch.rand(batch, num_steps, 2))


def without_gradient(module):
    """Names of the parameters that the last backward pass did not reach or gave zeros."""
    parameters = [(name, p) for name, p in module.named_parameters() if p.numel()]
    return [name for name, p in parameters if p.grad is None or not p.grad.abs().sum() > 0]


def look_context(batch: int, **fields) -> LookContext:
    """A context of zeros as small as can be, but for the given fields."""
    zeros = {'measurement': torch.zeros(batch, 1), 'temporal_embedding': torch.zeros(1, 1)}
    given = {**zeros, **fields}
    images = ImageContext(
        tokens=ImageTokens(torch.zeros(batch, 1), ((1, 1),), (batch, 1)),
        ego2img=torch.zeros(batch, 1, 4, 4),
        ida_mats=torch.zeros(batch, 1, 4, 4),
        image_size=(1, 1),
        static_embedding=torch.zeros(0, given['temporal_embedding'].shape[1]),
        camera_embedding=torch.zeros(1, 1),
        level_embedding=torch.zeros(1, 1),
    )
    return LookContext(**{'images': images, 'lidar_map': torch.zeros(batch, 1, 1, 1), **given})
