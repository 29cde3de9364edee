"""The decoder: a coarse plan, refined by a cascade of layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.errors import ConfigError
from thinktwice.model_code.dense_heads.coarse_head import CoarsePrediction
from thinktwice.model_code.dense_heads.deformable_attention import DeformableAttention
from thinktwice.model_code.dense_heads.image_tokens import ImageTokens
from thinktwice.model_code.dense_heads.interfaces import (
    ACTION_DIM,
    MIN_BETA_PARAMETER,
    ImageContext,
    LookContext,
    Planner,
    SceneState,
    TeacherInputs,
    stack_scenes,
)
from thinktwice.model_code.dense_heads.layers import to_conv_format
from thinktwice.model_code.dense_heads.refine_layer import RefineLayer
from thinktwice.model_code.scene import ImagePyramid, Measurements, SceneFeatures
from thinktwice.registry import MODELS

EMBEDDING_STD = 0.02


@MODELS.register_module()
class ThinkTwiceDecoder(Planner):
    """Coarse head and L refine layers without shared weights (the paper's decoder).

    The configs of the parts need no sizes; the decoder adds its own.

    Args:
        num_refine_layers: Layers L; 0 for the coarse plan only.
        num_steps: Future steps K.
        num_cameras: Cameras N of the camera look.
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
        camera_look: Config of the camera look of each layer; None for no look at the images.
        lidar_look: Config of the LiDAR look of each layer; None for no look at the LiDAR map.
        refine_layer: Config of each layer.
        init_cfg: Initialization config of mmengine.

    Raises:
        ConfigError: If ``num_refine_layers`` is negative.
    """

    teacher_keys = (
        'waypoints',
        'action_alpha',
        'action_beta',
        'future_action_alpha',
        'future_action_beta',
    )

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
        camera_look: dict[str, Any] | None = {'type': 'CameraLook'},  # noqa: B006  never modified
        lidar_look: dict[str, Any] | None = {'type': 'LidarLook'},  # noqa: B006
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
                'camera_look': camera_look
                and _build(camera_look, 'CameraLook', **scene, **steps, **cameras, **points),
                'lidar_look': lidar_look
                and _build(lidar_look, 'LidarLook', lidar_channels=lidar_channels, **bounds),
            }
            layer = _build(refine_layer, 'RefineLayer', **scene, **steps, **bev, **parts)
            self.layers.append(layer)

        # parameters that nothing reads would get no gradient
        self.looks_at_images = bool(num_refine_layers and camera_look)
        self.looks_at_lidar = bool(num_refine_layers and lidar_look)
        self.scene_keys = (
            *('vector', 'bev_map', 'flatten_head'),
            *(['images'] if self.looks_at_images else []),
            *(['lidar_map'] if self.looks_at_lidar else []),
        )
        self.scene_channels = {
            'vector': ('vector_channels', vector_channels),
            'bev_map': ('bev_channels', bev_channels),
            'measurements': ('measurement_channels', measurement_channels),
            **({'images': ('fpn_channels', fpn_channels)} if self.looks_at_images else {}),
            **({'lidar_map': ('lidar_channels', lidar_channels)} if self.looks_at_lidar else {}),
        }
        if self.looks_at_images:
            self.level_projections = nn.ModuleList(
                nn.Conv2d(fpn_channels, image_channels, 1) for _ in range(num_levels)
            )
        if num_refine_layers:
            self.temporal_embedding = _embedding(num_steps, embed_channels)
        if self.looks_at_images:
            self.static_embedding = _embedding(len(fixed_points), embed_channels)
            self.camera_embedding = _embedding(num_cameras, image_channels)
            self.level_embedding = _embedding(num_levels, image_channels)

    def init_weights(self) -> None:
        """Initialize to Xavier normal weights and zero biases, except for the deformable attention.

        The layers begin with offsets of zero. Offsets of meters, as random weights give them, are unlearned
        first, and that leaves the few units before the last layer without any activation for good.
        """
        attentions = [module for module in self.modules() if isinstance(module, DeformableAttention)]
        keep = {id(part) for attention in attentions for part in attention.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and id(module) not in keep:
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in self.layers:
            if isinstance(layer, RefineLayer):
                for offset in (layer.traj_offset_module[-1], layer.ctrl_offset_module[-1]):
                    assert isinstance(offset, nn.Linear)
                    nn.init.zeros_(offset.weight)
        # the embeddings are initialized where they are created; init_cfg is applied last
        super().init_weights()

    def teacher_inputs(self, targets: Mapping[str, Any]) -> TeacherInputs:
        """See :meth:`Planner.teacher_inputs`."""
        return TeacherInputs.from_targets(targets)

    def forward(
        self, scene: SceneFeatures, measurements: Measurements, teacher: TeacherInputs | None = None
    ) -> dict[str, Float[Tensor, 'B ...']]:
        """Predict plan, values and future scenes.

        Args:
            scene: Output of the sensor encoder, with the fields of ``scene_keys``.
            measurements: Speed, target point and command; only the encoded features are read.
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
        flatten_head = scene.flatten_head
        assert scene.vector is not None and scene.bev_map is not None and flatten_head is not None
        coarse = self.coarse_head(scene.vector, measurements.features)
        start = SceneState(to_conv_format(scene.bev_map), scene.vector)
        context = self.build_context(scene, measurements) if len(self.layers) else None
        if teacher is not None and teacher.waypoints.shape[1] != self.num_steps:
            raise ConfigError(
                f'horizon: the targets hold {teacher.waypoints.shape[1]} future steps, but the decoder is '
                f'configured for num_steps={self.num_steps}: set both to the same number'
            )
        return self.refine(coarse, start, context, flatten_head, teacher)

    def build_context(self, scene: SceneFeatures, measurements: Measurements) -> LookContext:
        """Collect the inputs that all layers share; arguments as in :meth:`forward`."""
        return LookContext(
            measurement=measurements.features,
            temporal_embedding=self.temporal_embedding,
            images=self.image_context(scene.images) if self.looks_at_images else None,
            lidar_map=scene.lidar_map if self.looks_at_lidar else None,
        )

    def image_context(self, images: ImagePyramid | None) -> ImageContext:
        """Project the levels to image tokens.

        Raises:
            ConfigError: If the number of levels or cameras differs from the configured one.
        """
        assert images is not None
        if len(images.levels) != self.num_levels:
            raise ConfigError(
                f'model.decoder.num_levels={self.num_levels}, but img_encoder gives {len(images.levels)} '
                f'levels of image features: set model.decoder.num_levels={len(images.levels)}'
            )
        cameras = images.ego2img.shape[1]
        if cameras != self.num_cameras:
            raise ConfigError(
                f'num_cameras={self.num_cameras}, but the samples hold {cameras} cameras: set '
                f"num_cameras={cameras}, or list the cameras to use: cameras=['front', ...]"
            )
        levels = [
            projection(level.flatten(0, 1)).unflatten(0, level.shape[:2])
            for projection, level in zip(self.level_projections, images.levels, strict=True)
        ]
        return ImageContext(
            tokens=ImageTokens.from_levels(levels),
            ego2img=images.ego2img,
            ida_mats=images.ida_mats,
            image_size=images.image_size,
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
            # the map before the first layer, the same in both passes, is convolved once
            states = [SceneState(start.bev_map, torch.cat([start.bev_vector] * 2))]
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
