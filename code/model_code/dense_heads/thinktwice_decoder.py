"""The decoder: a coarse plan, refined by a cascade of layers that look again."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
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

MIN_BETA_PARAMETER = 1e-3  # smallest predicted alpha or beta, and smallest believed target
EMBEDDING_STD = 0.02


@MODELS.register_module()
class ThinkTwiceDecoder(BaseModule):
    """Coarse head and L refine layers with weights of their own (the paper's decoder).

    The parts are given as configs; their sizes come from here.

    Args:
        num_refine_layers: layers L, 0 leaves the coarse plan as it is.
        num_steps: future steps K.
        num_cameras: cameras N.
        num_levels: image pyramid levels.
        fpn_channels: channels of each pyramid level.
        image_channels: width of the image tokens.
        vector_channels: width Cv of the BEV vector.
        bev_channels: channels C of the BEV map.
        measurement_channels: width Cm of the encoded measurements.
        lidar_channels: channels of the LiDAR map.
        embed_channels: width E of the temporal and static embeddings.
        x_range: meters ahead that the LiDAR map covers.
        y_range: meters to the right that the LiDAR map covers.
        heights: meters above the ground at which the plan is looked up in the images.
        fixed_points: (x, y) ego meters looked up beside the plan.
        with_cp: recompute the camera look in the backward pass to save memory.
        coarse_head: config of the coarse head.
        prediction_module: config of each layer's prediction module.
        camera_look: config of each layer's camera look.
        lidar_look: config of each layer's LiDAR look.
        refine_layer: config of the layer.
        init_cfg: mmengine's.

    Raises:
        ConfigError: if num_refine_layers is negative.
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
        with_cp: bool = False,
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
            layer = _build(refine_layer, 'RefineLayer', **scene, **steps, **bev, **parts, with_cp=with_cp)
            self.layers.append(layer)

        # without a layer nobody looks, and parameters without a use would get no gradient
        if num_refine_layers:
            self.level_projections = nn.ModuleList(
                nn.Conv2d(fpn_channels, image_channels, 1) for _ in range(num_levels)
            )
            self.temporal_embedding = _embedding(num_steps, embed_channels)
            self.static_embedding = _embedding(len(fixed_points), embed_channels)
            self.camera_embedding = _embedding(num_cameras, image_channels)
            self.level_embedding = _embedding(num_levels, image_channels)

    def init_weights(self) -> None:
        """Xavier normal weights and zero biases, except where the attention sets its own start."""
        attentions = [module for module in self.modules() if isinstance(module, DeformableAttention)]
        keep = {id(part) for attention in attentions for part in attention.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and id(module) not in keep:
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # the embeddings are drawn where they are made; what init_cfg asks for comes on top
        super().init_weights()

    def forward(
        self,
        bev_vector: Tensor,
        bev_map: Tensor,
        measurement: Tensor,
        fpn: Sequence[Tensor],
        ego2img: Tensor,
        ida_mats: Tensor,
        image_size: tuple[int, int],
        lidar_map: Tensor,
        flatten_head: nn.Module,
        teacher: TeacherInputs | None = None,
    ) -> dict[str, Tensor]:
        """Predict plan, values and future scenes.

        Args:
            bev_vector: (B, Cv).
            bev_map: (B, C, Y, X), row 0 farthest ahead, column 0 left.
            measurement: (B, Cm).
            fpn: one (B, N, fpn_channels, h, w) per level, the key frame's.
            ego2img: (B, N, 4, 4) ego meters to raw pixels times depth.
            ida_mats: (B, N, 4, 4) raw pixels to the network's image.
            image_size: (H, W) of the network's image.
            lidar_map: (B, Cl, Y', X'), oriented as the BEV map.
            flatten_head: BEV maps (B', C, Y, X) to (vectors (B', Cv), maps), shared with the encoder.
            teacher: the expert's plan, for the teacher-forcing pass.

        Returns:
            pred_speed (B, 1), pred_value_traj (B, 1), pred_value_ctrl (B, 1), pred_features_traj and
            pred_features_ctrl (B, 256), pred_waypoints (B, L + 1, K, 2), pred_alpha and pred_beta
            (B, L + 1, K, 2), refine_bev_vector (B, L, Cv), refine_bev_map (B, L, C, Y, X),
            refine_future_bev_map (B, L, K, C, Y, X). With a teacher also its offsets
            teacher_waypoint_offset (B, L, K, 2) and teacher_control_offset (B, L, K, 4), and
            teacher_refine_bev_vector, teacher_refine_bev_map and teacher_future_bev_map.

        Raises:
            ConfigError: if the number of levels, cameras or the teacher's steps is not the configured one.
        """
        coarse = self.coarse_head(bev_vector, measurement)
        start = SceneState(bev_map, bev_vector)
        context = None
        if len(self.layers):
            context = self.build_context(measurement, fpn, ego2img, ida_mats, image_size, lidar_map)
        outputs = self.refine(coarse, start, context, flatten_head)
        if teacher is not None and teacher.waypoints.shape[1] != self.num_steps:
            raise ConfigError(
                f'horizon: the targets hold {teacher.waypoints.shape[1]} future steps, but the decoder is '
                f'configured for num_steps={self.num_steps}: set both to the same number'
            )
        if teacher is not None and context is not None:
            outputs.update(self.teacher_forcing_pass(teacher, start, context, flatten_head))
        return outputs

    def build_context(
        self,
        measurement: Tensor,
        fpn: Sequence[Tensor],
        ego2img: Tensor,
        ida_mats: Tensor,
        image_size: tuple[int, int],
        lidar_map: Tensor,
    ) -> LookContext:
        """Gather what all layers look at; arguments as in :meth:`forward`.

        Raises:
            ConfigError: if the number of pyramid levels or cameras is not the configured one.
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
    ) -> dict[str, Tensor]:
        """Refine the coarse plan layer by layer.

        A layer starts from the plan so far without its gradient, so each stage's error trains the
        layer that made it.
        """
        waypoints, controls, states = [coarse.waypoints], [coarse.controls], [start]
        for layer in self.layers:
            plan, control = waypoints[-1].detach(), controls[-1].detach()
            waypoint_offset, control_offset, state = layer(plan, control, states[-1], context, flatten_head)
            waypoints.append(plan + waypoint_offset)
            controls.append(control + control_offset)
            states.append(state)
        beta_parameters = F.softplus(torch.stack(controls, dim=1)).clamp(min=MIN_BETA_PARAMETER)
        vectors, maps, future_maps = stack_scenes(states[1:], start, coarse.waypoints.shape[1])
        return {
            'pred_speed': coarse.speed,
            'pred_value_traj': coarse.value_traj,
            'pred_value_ctrl': coarse.value_ctrl,
            'pred_features_traj': coarse.features_traj,
            'pred_features_ctrl': coarse.features_ctrl,
            'pred_waypoints': torch.stack(waypoints, dim=1),
            'pred_alpha': beta_parameters[..., :ACTION_DIM],
            'pred_beta': beta_parameters[..., ACTION_DIM:],
            'refine_bev_vector': vectors,
            'refine_bev_map': maps,
            'refine_future_bev_map': future_maps,
        }

    def teacher_forcing_pass(
        self, teacher: TeacherInputs, start: SceneState, context: LookContext, flatten_head: nn.Module
    ) -> dict[str, Tensor]:
        """Run the layers with the expert's plan, which each of them should leave as it is."""
        controls = self.teacher_controls(teacher)
        waypoint_offsets, control_offsets, states = [], [], [start]
        for layer in self.layers:
            waypoint_offset, control_offset, state = layer(
                teacher.waypoints, controls, states[-1], context, flatten_head
            )
            waypoint_offsets.append(waypoint_offset)
            control_offsets.append(control_offset)
            states.append(state)
        vectors, maps, future_maps = stack_scenes(states[1:], start, teacher.waypoints.shape[1])
        return {
            'teacher_waypoint_offset': torch.stack(waypoint_offsets, dim=1),
            'teacher_control_offset': torch.stack(control_offsets, dim=1),
            'teacher_refine_bev_vector': vectors,
            'teacher_refine_bev_map': maps,
            'teacher_future_bev_map': future_maps,
        }

    def teacher_controls(self, teacher: TeacherInputs) -> Tensor:
        """Controls (B, K, 4) whose softplus are the expert's Beta parameters.

        A parameter of 0 would be minus infinity, so targets count as no less than what the
        model itself can predict.
        """
        parameters = torch.cat([teacher.alpha, teacher.beta], dim=-1).clamp(min=MIN_BETA_PARAMETER)
        return inverse_softplus(parameters)


def inverse_softplus(values: Tensor) -> Tensor:
    """The x whose softplus is the given positive value."""
    return values + torch.log(-torch.expm1(-values))


def _build(config: dict[str, Any] | None, default_type: str, **sizes: Any) -> nn.Module:
    return MODELS.build(config or {'type': default_type}, default_args=sizes)


def _embedding(rows: int, channels: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(rows, channels), std=EMBEDDING_STD))
