"""What passes between the parts of the decoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.image_tokens import ImageTokens

WAYPOINT_DIM = 2  # x forward, y right [m]
ACTION_DIM = 2  # acceleration, steer
CONTROL_DIM = 2 * ACTION_DIM  # alpha of both actions, then beta of both


class LookModule(nn.Module):
    """A part of the refine layer that looks back at a sensor.

    Attributes:
        out_channels: width of the look features.
    """

    out_channels: int


@dataclass(frozen=True)
class TeacherInputs:
    """The expert's plan, which the teacher-forcing pass refines instead of the model's.

    Attributes:
        waypoints: (B, K, 2) ego meters.
        alpha: (B, K, 2) Beta parameters of (acceleration, steer), step 0 is now.
        beta: (B, K, 2) the same.
    """

    waypoints: Tensor
    alpha: Tensor
    beta: Tensor


@dataclass(frozen=True)
class LookContext:
    """What every refine layer sees of one batch, the same in all layers and passes.

    Attributes:
        measurement: (B, Cm) encoded speed, target point and command.
        tokens: image tokens of all cameras and levels.
        ego2img: (B, N, 4, 4) ego meters to raw pixels times depth.
        ida_mats: (B, N, 4, 4) raw pixels to the pixels of the network's image.
        image_size: (H, W) of the network's image.
        lidar_map: (B, Cl, Y, X), row 0 farthest ahead, column 0 left.
        temporal_embedding: (K, E) one per future step.
        static_embedding: (F, E) one per fixed look point.
        camera_embedding: (N, C) added to the tokens of a camera.
        level_embedding: (levels, C) added to the tokens of a pyramid level.
    """

    measurement: Tensor
    tokens: ImageTokens
    ego2img: Tensor
    ida_mats: Tensor
    image_size: tuple[int, int]
    lidar_map: Tensor
    temporal_embedding: Tensor
    static_embedding: Tensor
    camera_embedding: Tensor
    level_embedding: Tensor


@dataclass(frozen=True)
class SceneState:
    """The belief about the scene that a refine layer updates.

    Attributes:
        bev_map: (B, C, Y, X) of the key frame.
        bev_vector: (B, Cv) the flattened scene.
        future_bev_map: (B, K, C, Y, X) predicted under the present plan; None before the first layer.
    """

    bev_map: Tensor
    bev_vector: Tensor
    future_bev_map: Tensor | None = None


def stack_scenes(
    states: Sequence[SceneState], start: SceneState, num_steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """BEV vectors, maps and future maps after each layer, each (B, L, ...); empty where L is 0."""
    maps, vectors = start.bev_map, start.bev_vector
    if not states:
        B = len(maps)
        future = maps.new_zeros(B, 0, num_steps, *maps.shape[1:])
        return vectors.new_zeros(B, 0, *vectors.shape[1:]), maps.new_zeros(B, 0, *maps.shape[1:]), future
    return (
        torch.stack([state.bev_vector for state in states], dim=1),
        torch.stack([state.bev_map for state in states], dim=1),
        torch.stack([state.future_bev_map for state in states if state.future_bev_map is not None], dim=1),
    )
