"""Data that the parts of the decoder exchange."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.image_tokens import ImageTokens

WAYPOINT_DIM = 2  # x forward, y right [m]
ACTION_DIM = 2  # acceleration, steer
CONTROL_DIM = 2 * ACTION_DIM  # alpha of both actions, then beta of both


class LookModule(nn.Module):
    """Base class of look modules, which retrieve features of one sensor around the plan.

    Attributes:
        out_channels: Channels of the look features.
    """

    out_channels: int


@dataclass(frozen=True)
class TeacherInputs:
    """The expert's plan, the input of the teacher-forcing pass in place of the model's own plan.

    Attributes:
        waypoints: x, y in the ego frame, meters.
        alpha: Beta parameters of (acceleration, steer), starting with the current step.
        beta: The same.
    """

    waypoints: Float[Tensor, 'B K 2']
    alpha: Float[Tensor, 'B K 2']
    beta: Float[Tensor, 'B K 2']


@dataclass(frozen=True)
class LookContext:
    """Inputs of the refine layers that are the same in all layers.

    A layer runs all passes at once: the samples of a pass follow those of the one before it, so that B is
    the number of passes times that of samples.

    Attributes:
        passes: Number of passes: 1, or 2 with teacher forcing.
        measurement: Encoded speed, target point and command.
        tokens: Image tokens of all cameras and levels of the samples.
        ego2img: Ego frame in meters to pixels of the raw image times depth.
        ida_mats: Pixel of the raw image to pixel of the network's image.
        image_size: H, W of the network's images, pixels.
        lidar_map: LiDAR BEV map of the samples in teacher orientation.
        temporal_embedding: One per future step.
        static_embedding: One per fixed look point.
        camera_embedding: Added to the tokens of a camera.
        level_embedding: Added to the tokens of a pyramid level.
    """

    measurement: Float[Tensor, 'B Cm']
    tokens: ImageTokens
    ego2img: Float[Tensor, 'B N 4 4']
    ida_mats: Float[Tensor, 'B N 4 4']
    image_size: tuple[int, int]
    lidar_map: Float[Tensor, 'samples Cl X Y']
    temporal_embedding: Float[Tensor, 'K E']
    static_embedding: Float[Tensor, 'fixed E']
    camera_embedding: Float[Tensor, 'N C']
    level_embedding: Float[Tensor, 'levels C']
    passes: int = 1

    def repeat(self, passes: int) -> 'LookContext':
        """The context of several passes over the same samples."""
        return replace(
            self,
            measurement=torch.cat([self.measurement] * passes),
            ego2img=torch.cat([self.ego2img] * passes),
            ida_mats=torch.cat([self.ida_mats] * passes),
            passes=passes,
        )


@dataclass(frozen=True)
class SceneState:
    """The representation of the scene that each refine layer updates.

    Attributes:
        bev_map: BEV feature map of the key frame in teacher orientation.
        bev_vector: The flattened BEV feature map.
        future_bev_map: Predicted maps conditioned on the current plan; None before the first layer.
    """

    bev_map: Float[Tensor, 'B C X Y']
    bev_vector: Float[Tensor, 'B Cv']
    future_bev_map: Float[Tensor, 'B K C X Y'] | None = None


def stack_scenes(
    states: Sequence[SceneState], start: SceneState, num_steps: int
) -> tuple[Float[Tensor, 'B L Cv'], Float[Tensor, 'B L C X Y'], Float[Tensor, 'B L K C X Y']]:
    """Stack BEV vectors, maps and future maps of all layers; L is 0 without layers."""
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
