"""The decoder: a coarse plan, refined by a cascade of layers."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.errors import ConfigError
from thinktwice.model_code.dense_heads.coarse_head import CoarsePrediction
from thinktwice.model_code.dense_heads.deformable_attention import DeformableAttention
from thinktwice.model_code.dense_heads.image_tokens import ImageTokens
from thinktwice.model_code.dense_heads.interfaces import (
    ACTION_DIM,
    LookContext,
    SceneState,
    TeacherInputs,
    stack_scenes,
)
from thinktwice.registry import MODELS

MIN_BETA_PARAMETER = 1e-3  # predicted and target alpha and beta are clamped to this
EMBEDDING_STD = 0.02


@MODELS.register_module()
class ThinkTwiceDecoder(BaseModule):
    """Coarse head and L refine layers without shared weights (the paper's decoder).

    The configs of the parts need no sizes; the decoder adds its own.

    Args:
        num_refine_layers: Layers L; 0 for the coarse plan only.
        num_steps: Future steps K.
        num_cameras: Cameras N.
        num_levels: Image pyramid levels.
        fpn_channels: Channels of each pyramid level.
        image_channels: Channels of the image tokens.
        vector_channels: Channels Cv of the BEV vector.
        bev_channels: Channels C of the BEV map.
        measurement_channels: Channels Cm of the encoded measurements.
        lidar_channels: Channels Cl of the LiDAR map.
        embed_channels: Channels E of the temporal and static embeddings.
        x_range: Extent of the LiDAR map along x (forward), meters.
        y_range: Extent of the LiDAR map along y (right), meters.
        heights: Heights of the camera look queries, meters above the ground.
        fixed_points: x, y of camera look queries in addition to the waypoints, meters.
        coarse_head: Config of the coarse head.
        prediction_module: Config of the prediction module of each layer.
        camera_look: Config of the camera look of each layer.
        lidar_look: Config of the LiDAR look of each layer.
        refine_layer: Config of each layer.
        init_cfg: Initialization config of mmengine.

    Raises:
        ConfigError: If ``num_refine_layers`` is negative.
    """

    def __init__(
        self,
        num_refine_layers: int = 5,
        num_steps: int = 4,
        num_cameras: int = 4,
        num_levels: int = 4,
        fpn_channels: int = 256,
        image_channels: int = 256,
        vector_channels: int = 256,
        bev_channels: int = 32,
        measurement_channels: int = 128,
        lidar_channels: int = 512,
        embed_channels: int = 128,
        x_range: Sequence[float] = (-8.0, 30.4),
        y_range: Sequence[float] = (-19.2, 19.2),
        heights: Sequence[float] = tuple(range(-4, 11)),
        fixed_points: Sequence[Sequence[float]] = ((5, 0), (0, -5), (0, 5), (-5, 0)),
        coarse_head: dict[str, Any] | None = None,
        prediction_module: dict[str, Any] | None = None,
        camera_look: dict[str, Any] | None = None,
        lidar_look: dict[str, Any] | None = None,
        refine_layer: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_refine_layers < 0:
            raise ConfigError(f'num_refine_layers={num_refine_layers} must be 0 (the coarse plan) or more')
        self.num_steps = num_steps
        self.num_cameras = num_cameras
        self.num_levels = num_levels
        scene = {'vector_channels': vector_channels, 'measurement_channels': measurement_channels}
        steps = {'num_steps': num_steps, 'embed_channels': embed_channels}
        cameras = {'num_cameras': num_cameras, 'num_levels': num_levels, 'channels': image_channels}
        points = {'heights': heights, 'fixed_points': fixed_points}
        bounds = {'embed_channels': embed_channels, 'x_range': x_range, 'y_range': y_range}
        bev = {'bev_channels': bev_channels}
        self.coarse_head = _build(coarse_head, 'CoarseHead', num_steps=num_steps, **scene)
        self.layers = nn.ModuleList()
        for _ in range(num_refine_layers):
            parts = {
                'prediction_module': _build(prediction_module, 'PredictionModule', **bev),
                'camera_look': _build(camera_look, 'CameraLook', **scene, **steps, **cameras, **points),
                'lidar_look': _build(lidar_look, 'LidarLook', lidar_channels=lidar_channels, **bounds),
            }
            layer = _build(refine_layer, 'RefineLayer', **scene, **steps, **bev, **parts)
            self.layers.append(layer)

        # without refine layers these parameters would be unused and get no gradient
        if num_refine_layers:
            self.level_projections = nn.ModuleList(
                nn.Conv2d(fpn_channels, image_channels, 1) for _ in range(num_levels)
            )
            self.temporal_embedding = _embedding(num_steps, embed_channels)
            self.static_embedding = _embedding(len(fixed_points), embed_channels)
            self.camera_embedding = _embedding(num_cameras, image_channels)
            self.level_embedding = _embedding(num_levels, image_channels)

    def init_weights(self) -> None:
        """Initialize to Xavier normal weights and zero biases, except for the deformable attention."""
        attentions = [module for module in self.modules() if isinstance(module, DeformableAttention)]
        keep = {id(part) for attention in attentions for part in attention.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and id(module) not in keep:
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # the embeddings are initialized where they are created; init_cfg is applied last
        super().init_weights()

    def forward(
        self,
        bev_vector: Float[Tensor, 'B Cv'],
        bev_map: Float[Tensor, 'B C X Y'],
        measurement: Float[Tensor, 'B Cm'],
        fpn: Sequence[Float[Tensor, 'B N fpn_channels _ _']],
        ego2img: Float[Tensor, 'B N 4 4'],
        ida_mats: Float[Tensor, 'B N 4 4'],
        image_size: tuple[int, int],
        lidar_map: Float[Tensor, 'B Cl _ _'],
        flatten_head: nn.Module,
        teacher: TeacherInputs | None = None,
    ) -> dict[str, Float[Tensor, 'B ...']]:
        """Predict plan, values and future scenes.

        Args:
            bev_vector: The flattened BEV feature map.
            bev_map: BEV feature map in teacher orientation.
            measurement: Encoded measurements.
            fpn: Image features of the key frame, fine to coarse.
            ego2img: Ego frame in meters to pixels of the raw image times depth.
            ida_mats: Pixel of the raw image to pixel of the network's image.
            image_size: H, W of the network's images, pixels.
            lidar_map: LiDAR BEV map in teacher orientation.
            flatten_head: Called as :class:`BEVFlattenHead`; shared with the encoder.
            teacher: The expert's plan, for the teacher-forcing pass.

        Returns:
            pred_speed (B, 1), pred_value_traj (B, 1), pred_value_ctrl (B, 1), pred_features_traj and
            pred_features_ctrl (B, 256), pred_waypoints (B, L + 1, K, 2), pred_alpha and pred_beta
            (B, L + 1, K, 2), refine_bev_vector (B, L, Cv), refine_bev_map (B, L, C, X, Y),
            refine_future_bev_map (B, L, K, C, X, Y). With a teacher also its offsets
            teacher_waypoint_offset (B, L, K, 2) and teacher_control_offset (B, L, K, 4), and
            teacher_refine_bev_vector, teacher_refine_bev_map and teacher_future_bev_map.

        Raises:
            ConfigError: If the number of levels, cameras or steps differs from the configured one.
        """
        coarse = self.coarse_head(bev_vector, measurement)
        start = SceneState(bev_map, bev_vector)
        context = None
        if len(self.layers):
            context = self.build_context(measurement, fpn, ego2img, ida_mats, image_size, lidar_map)
        if teacher is not None and teacher.waypoints.shape[1] != self.num_steps:
            raise ConfigError(
                f'horizon: the targets hold {teacher.waypoints.shape[1]} future steps, but the decoder is '
                f'configured for num_steps={self.num_steps}: set both to the same number'
            )
        return self.refine(coarse, start, context, flatten_head, teacher)

    def build_context(
        self,
        measurement: Float[Tensor, 'B Cm'],
        fpn: Sequence[Float[Tensor, 'B N fpn_channels _ _']],
        ego2img: Float[Tensor, 'B N 4 4'],
        ida_mats: Float[Tensor, 'B N 4 4'],
        image_size: tuple[int, int],
        lidar_map: Float[Tensor, 'B Cl _ _'],
    ) -> LookContext:
        """Collect the inputs that all layers share; arguments as in :meth:`forward`.

        Raises:
            ConfigError: If the number of levels or cameras differs from the configured one.
        """
        if len(fpn) != self.num_levels:
            raise ConfigError(
                f'model.decoder.num_levels={self.num_levels}, but img_encoder gives {len(fpn)} levels of '
                f'image features: set model.decoder.num_levels={len(fpn)}'
            )
        if ego2img.shape[1] != self.num_cameras:
            raise ConfigError(
                f'num_cameras={self.num_cameras}, but the samples hold {ego2img.shape[1]} cameras: set '
                f"num_cameras={ego2img.shape[1]}, or list the cameras to use: cameras=['front', ...]"
            )
        levels = [
            projection(level.flatten(0, 1)).unflatten(0, level.shape[:2])
            for projection, level in zip(self.level_projections, fpn, strict=True)
        ]
        return LookContext(
            measurement=measurement,
            tokens=ImageTokens.from_levels(levels),
            ego2img=ego2img,
            ida_mats=ida_mats,
            image_size=image_size,
            lidar_map=lidar_map,
            temporal_embedding=self.temporal_embedding,
            static_embedding=self.static_embedding,
            camera_embedding=self.camera_embedding,
            level_embedding=self.level_embedding,
        )

    def refine(
        self,
        coarse: CoarsePrediction,
        start: SceneState,
        context: LookContext | None,
        flatten_head: nn.Module,
        teacher: TeacherInputs | None = None,
    ) -> dict[str, Float[Tensor, 'B ...']]:
        """Refine the coarse plan layer by layer.

        The plan is detached before each layer, so that the error of a stage trains only the layer
        that predicted it. With a teacher each layer also runs on the expert's plan, for which it should
        predict offsets of zero: both passes are one batch, with a scene of their own.
        """
        B, K, _ = coarse.waypoints.shape
        waypoints, controls, states, offsets = [coarse.waypoints], [coarse.controls], [start], []
        forced_waypoints, forced_controls = [], []
        if teacher is not None and context is not None:
            context = context.repeat(2)
            states = [SceneState(torch.cat([start.bev_map] * 2), torch.cat([start.bev_vector] * 2))]
            forced_waypoints, forced_controls = [teacher.waypoints], [self.teacher_controls(teacher)]
        for layer in self.layers:
            plan, control = waypoints[-1].detach(), controls[-1].detach()
            waypoint_offset, control_offset, state = layer(
                torch.cat([plan, *forced_waypoints]),
                torch.cat([control, *forced_controls]),
                states[-1],
                context,
                flatten_head,
            )
            waypoints.append(plan + waypoint_offset[:B])
            controls.append(control + control_offset[:B])
            offsets.append((waypoint_offset[B:], control_offset[B:]))
            states.append(state)
        beta_parameters = F.softplus(torch.stack(controls, dim=1)).clamp(min=MIN_BETA_PARAMETER)
        vectors, maps, future_maps = (scenes.split(B) for scenes in stack_scenes(states[1:], states[0], K))
        outputs = {
            'pred_speed': coarse.speed,
            'pred_value_traj': coarse.value_traj,
            'pred_value_ctrl': coarse.value_ctrl,
            'pred_features_traj': coarse.features_traj,
            'pred_features_ctrl': coarse.features_ctrl,
            'pred_waypoints': torch.stack(waypoints, dim=1),
            'pred_alpha': beta_parameters[..., :ACTION_DIM],
            'pred_beta': beta_parameters[..., ACTION_DIM:],
            'refine_bev_vector': vectors[0],
            'refine_bev_map': maps[0],
            'refine_future_bev_map': future_maps[0],
        }
        if forced_waypoints:
            waypoint_offsets, control_offsets = zip(*offsets, strict=True)
            outputs |= {
                'teacher_waypoint_offset': torch.stack(waypoint_offsets, dim=1),
                'teacher_control_offset': torch.stack(control_offsets, dim=1),
                'teacher_refine_bev_vector': vectors[1],
                'teacher_refine_bev_map': maps[1],
                'teacher_future_bev_map': future_maps[1],
            }
        return outputs

    def teacher_controls(self, teacher: TeacherInputs) -> Float[Tensor, 'B K 4']:
        """Controls whose softplus are the expert's Beta parameters.

        The parameters are clamped as the predictions are: the inverse softplus of 0 is infinite.
        """
        parameters = torch.cat([teacher.alpha, teacher.beta], dim=-1).clamp(min=MIN_BETA_PARAMETER)
        return inverse_softplus(parameters)


def inverse_softplus(values: Float[Tensor, '*shape']) -> Float[Tensor, '*shape']:
    """Invert the softplus of positive values."""
    return values + torch.log(-torch.expm1(-values))


def _build(config: dict[str, Any] | None, default_type: str, **sizes: Any) -> nn.Module:
    return MODELS.build(config or {'type': default_type}, default_args=sizes)


def _embedding(rows: int, channels: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(rows, channels), std=EMBEDDING_STD))
