"""Data that the parts of the decoder exchange."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.image_tokens import ImageTokens
from thinktwice.model_code.scene import Measurements, SceneFeatures

WAYPOINT_DIM = 2  # x forward, y right [m]
ACTION_DIM = 2  # acceleration, steer
CONTROL_DIM = 2 * ACTION_DIM  # alpha of both actions, then beta of both
MIN_BETA_PARAMETER = 1e-3  # predicted and target alpha and beta are clamped to this


class Planner(BaseModule):
    """Base class of planners, which turn a scene and measurements into a plan.

    Attributes:
        scene_keys: Fields of :class:`SceneFeatures` that the planner reads.
        scene_channels: For fields of ``scene_keys`` and for ``measurements``, the argument of the planner
            that says how many channels they have, and its value; what is named here is checked.
        teacher_keys: Targets that its teacher-forcing pass reads; empty for a planner without one.
    """

    scene_keys: tuple[str, ...] = ()
    scene_channels: Mapping[str, tuple[str, int]] = {}
    teacher_keys: tuple[str, ...] = ()

    def forward(
        self, scene: SceneFeatures, measurements: Measurements, teacher: Any = None
    ) -> dict[str, Float[Tensor, 'B ...']]:
        """Predict a plan.

        Args:
            scene: Output of the sensor encoder, with the fields of ``scene_keys``.
            measurements: Speed, target point and command.
            teacher: Result of :meth:`teacher_inputs`, if a loss reads the teacher-forcing pass.

        Returns:
            pred_waypoints (B, stages, K, 2), x and y in the ego frame in meters, of each stage of
            refinement. A planner of actions adds pred_alpha and pred_beta (B, stages, K, 2), Beta
            parameters of acceleration and steer, starting with the current step. Other outputs are for
            the losses and metrics that read them.
        """
        raise NotImplementedError

    def teacher_inputs(self, targets: Mapping[str, Any]) -> Any:
        """The expert's plan of a batch, as the teacher-forcing pass takes it.

        Args:
            targets: With the entries of ``teacher_keys``.
        """
        raise NotImplementedError


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

    @classmethod
    def from_targets(cls, targets: Mapping[str, Any]) -> 'TeacherInputs':
        """The expert's plan of a batch in float32, starting with the current step."""
        current = {key: targets[key].unsqueeze(1) for key in ('action_alpha', 'action_beta')}
        return cls(
            waypoints=targets['waypoints'].float(),
            alpha=torch.cat([current['action_alpha'], targets['future_action_alpha']], dim=1).float(),
            beta=torch.cat([current['action_beta'], targets['future_action_beta']], dim=1).float(),
        )


@dataclass(frozen=True)
class ImageContext:
    """Image features and embeddings that camera looks read.

    Attributes:
        tokens: Image tokens of all cameras and levels of the samples.
        ego2img: Ego frame in meters to pixels of the raw image times depth.
        ida_mats: Pixel of the raw image to pixel of the network's image.
        image_size: H, W of the network's images, pixels.
        static_embedding: One per fixed look point.
        camera_embedding: Added to the tokens of a camera.
        level_embedding: Added to the tokens of a pyramid level.
    """

    tokens: ImageTokens
    ego2img: Float[Tensor, 'B N 4 4']
    ida_mats: Float[Tensor, 'B N 4 4']
    image_size: tuple[int, int]
    static_embedding: Float[Tensor, 'fixed E']
    camera_embedding: Float[Tensor, 'N C']
    level_embedding: Float[Tensor, 'levels C']


@dataclass(frozen=True)
class LookContext:
    """Inputs of the refine layers that are the same in all layers.

    A layer runs all passes at once: the samples of a pass follow those of the one before it, so that B is
    the number of passes times that of samples.

    Attributes:
        passes: Number of passes: 1, or 2 with teacher forcing.
        measurement: Encoded speed, target point and command.
        temporal_embedding: One per future step.
        images: For camera looks; None without.
        lidar_map: LiDAR BEV map of the samples in teacher orientation, for LiDAR looks; None without.
    """

    measurement: Float[Tensor, 'B Cm']
    temporal_embedding: Float[Tensor, 'K E']
    images: ImageContext | None = None
    lidar_map: Float[Tensor, 'samples Cl X Y'] | None = None
    passes: int = 1

    def repeat(self, passes: int) -> 'LookContext':
        """The context of several passes over the same samples."""
        images = self.images and replace(
            self.images,
            ego2img=torch.cat([self.images.ego2img] * passes),
            ida_mats=torch.cat([self.images.ida_mats] * passes),
        )
        measurement = torch.cat([self.measurement] * passes)
        return replace(self, measurement=measurement, images=images, passes=passes)


@dataclass(frozen=True)
class SceneState:
    """The representation of the scene that each refine layer updates.

    Attributes:
        bev_map: BEV feature map of the key frame in teacher orientation; before the first layer that of the
            samples, which is the same in all passes.
        bev_vector: The flattened BEV feature map.
        future_bev_map: Predicted maps conditioned on the current plan; None before the first layer.
    """

    bev_map: Float[Tensor, 'samples C X Y']
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
