"""The driving model: sensor encoders, planner and losses."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from mmengine.model import BaseModel
from torch import Tensor, nn

from thinktwice.errors import ConfigError
from thinktwice.model_code.control import beta_mode_action
from thinktwice.model_code.dense_heads import Planner
from thinktwice.model_code.dense_heads.interfaces import WAYPOINT_DIM
from thinktwice.model_code.scene import ImagePyramid, Measurements, SceneEncoder, SceneFeatures
from thinktwice.registry import MODELS

ConfigDict = dict[str, Any]

CAMERA_KEYS = ('img', 'intrinsics', 'cam2ego', 'frame2key', 'ida_mats')
"""Inputs that ``img_encoder`` reads."""
MEASUREMENT_KEYS = ('speed', 'target_point', 'command')
AUXILIARY_KEYS = ('depth_logits', 'seg_logits')
"""Outputs of the auxiliary heads that predictions include."""


@MODELS.register_module()
class EncoderDecoder(BaseModel):
    """End-to-end driving from cameras and LiDAR (Jia et al., "Think Twice before Driving", 2023).

    The sensors are encoded either by the parts of the paper's BEV encoder, each of which may be left out,
    or by a ``scene_encoder``. Without any, the planner has the measurements only.

    Args:
        measurement_encoder: Config of the encoder of speed, target point and command.
        decoder: Config of the planner, see :class:`Planner`.
        img_encoder: Config of the camera encoder: BEV map, image features, depth and segmentation.
        lidar_encoder: Config of the LiDAR encoder: point clouds to a BEV map.
        bev_fusion: Config of the fusion of the BEV maps, or of the reduction of the only one.
        flatten_head: Config of the head that turns a BEV feature map into smaller maps and a vector. Its
            ``bev_size`` is by default that of the camera encoder's map, else of the LiDAR encoder's.
        scene_encoder: Config of an encoder of all inputs, see :class:`SceneEncoder`.
        losses: Configs of the terms of the training objective by name; None leaves a term out.
        frozen: Names of parts that are not trained and stay in evaluation mode, such as ``img_encoder``.
        data_preprocessor: Config of the preprocessing on the device.
        init_cfg: Initialization config of mmengine.

    Raises:
        ConfigError: If a part is missing that another one needs or that is to be frozen, there is a
            ``scene_encoder`` besides the parts, or ``img_encoder`` and ``flatten_head`` differ in the size of
            the BEV map.
    """

    def __init__(
        self,
        measurement_encoder: ConfigDict,
        decoder: ConfigDict,
        img_encoder: ConfigDict | None = None,
        lidar_encoder: ConfigDict | None = None,
        bev_fusion: ConfigDict | None = None,
        flatten_head: ConfigDict | None = None,
        scene_encoder: ConfigDict | None = None,
        losses: Mapping[str, ConfigDict | None] | None = None,
        frozen: Sequence[str] = (),
        data_preprocessor: ConfigDict | None = None,
        init_cfg: ConfigDict | None = None,
    ) -> None:
        # built here, because mmengine finds our registry only if it is the default scope
        super().__init__(data_preprocessor=_build(data_preprocessor), init_cfg=init_cfg)
        self.img_encoder = _build(img_encoder)
        self.lidar_encoder = _build(lidar_encoder)
        self.bev_fusion = _build(bev_fusion)
        self.flatten_head = _build(flatten_head, **self._bev_size(flatten_head))
        self.scene_encoder = _build(scene_encoder)
        self._check_parts()
        self.measurement_encoder = MODELS.build(measurement_encoder)
        self.decoder = MODELS.build(decoder)
        for name, kind in (('decoder', Planner), ('scene_encoder', SceneEncoder)):
            if (part := getattr(self, name)) is not None and not isinstance(part, kind):
                raise ConfigError(f'model.{name} {type(part).__name__} must be a subclass of {kind.__name__}')
        configured = {name: loss for name, loss in (losses or {}).items() if loss is not None}
        self.losses = nn.ModuleDict({name: MODELS.build(loss) for name, loss in configured.items()})
        self.frozen = tuple(frozen)  # names: converting batch norms replaces parts
        for name in self.frozen:
            self._part(name).requires_grad_(False)

    def train(self, mode: bool = True) -> 'EncoderDecoder':
        """Set training or evaluation mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(
        self,
        inputs: dict[str, Any],
        targets: dict[str, Any] | None = None,
        metas: Sequence[dict[str, Any]] | None = None,
        mode: str = 'tensor',
    ) -> dict[str, Any] | list[dict[str, Float[Tensor, '...']]]:
        """Run the model on a preprocessed batch.

        Args:
            inputs: speed (B,) m/s, target_point (B, 2) in the ego frame in meters and command (B,) int64.
                For ``img_encoder`` img (B, T, N, 3, H, W) normalized, intrinsics (B, T, N, 3, 3), cam2ego
                (B, T, N, 4, 4), frame2key (B, T, 4, 4) and ida_mats (B, T, N, 4, 4). For
                ``lidar_encoder`` points (one (P, 5) per sample).
            targets: The supervision; used in mode ``loss`` only.
            metas: Metadata of each sample, not used.
            mode: ``tensor``, ``loss`` or ``predict``.

        Returns:
            Results of :meth:`predict_raw`, :meth:`loss` or :meth:`predict`.

        Raises:
            ValueError: If the mode is unknown.
        """
        if mode == 'tensor':
            return self.predict_raw(inputs)
        if mode == 'loss':
            return self.loss(inputs, targets)
        if mode == 'predict':
            return self.predict(inputs)
        raise ValueError(f"mode={mode!r} must be 'tensor', 'loss' or 'predict'")

    def encode(self, inputs: dict[str, Any]) -> SceneFeatures:
        """Encode the sensors.

        Args:
            inputs: See :meth:`forward`.

        Raises:
            ConfigError: If the inputs lack a sensor that is encoded, or the BEV map does not have the size
                that ``flatten_head`` expects.
        """
        if self.scene_encoder is not None:
            _require('scene_encoder', self.scene_encoder.input_keys, inputs)
            return self.scene_encoder(inputs)
        cameras, images, auxiliary, lidar_map = None, None, {}, None
        if self.img_encoder is not None:
            _require('img_encoder', CAMERA_KEYS, inputs)
            cameras = self.img_encoder(*(inputs[key] for key in CAMERA_KEYS))
            images = ImagePyramid.of_key_frame(inputs, cameras.fpn)
            auxiliary = {key: getattr(cameras, key) for key in AUXILIARY_KEYS}
        if self.lidar_encoder is not None:
            _require('lidar_encoder', ('points',), inputs)
            lidar_map = self.lidar_encoder(inputs['points'])
        if self.bev_fusion is None:
            return SceneFeatures(images=images, lidar_map=lidar_map, auxiliary=_without_none(auxiliary))
        bev_map = self.bev_fusion(None if cameras is None else cameras.bev, lidar_map)
        vector, bev_levels = None, [bev_map]
        if self.flatten_head is not None:
            check_bev_size(bev_map.shape[-2:], self.flatten_head)
            vector, smaller_maps = self.flatten_head(bev_map)
            bev_levels += smaller_maps
        return SceneFeatures(
            bev_map=bev_map,
            vector=vector,
            bev_levels=bev_levels,
            images=images,
            lidar_map=lidar_map,
            flatten_head=self.flatten_head,
            auxiliary=_without_none(auxiliary),
        )

    def predict_raw(self, inputs: dict[str, Any], teacher: Any = None) -> dict[str, Any]:
        """Compute the outputs of the planner and of the auxiliary heads.

        Args:
            inputs: See :meth:`forward`.
            teacher: The expert's plan as the planner takes it, for its teacher-forcing pass.

        Returns:
            The outputs of the planner, bev_map (B, C, X, Y), bev_vector (B, Cv) and bev_levels (the BEV
            map and the smaller maps), and the auxiliary outputs of the encoder; without those that the
            encoder lacks.

        Raises:
            ConfigError: If the planner reads what the encoder does not give, or of other width.
        """
        _require('measurement_encoder', MEASUREMENT_KEYS, inputs)
        scene = self.encode(inputs)
        speed, target_point, command = inputs['speed'], inputs['target_point'], inputs['command']
        features = self.measurement_encoder(speed, target_point, command)
        measurements = Measurements(speed, target_point, command, features)
        self._check_scene(scene, measurements)
        scene_outputs = {
            'bev_map': scene.bev_map,
            'bev_vector': scene.vector,
            'bev_levels': scene.bev_levels,
            **scene.auxiliary,
        }
        plan = self.decoder(scene, measurements, teacher)
        _check_plan(type(self.decoder).__name__, plan)
        return {**plan, **_without_none(scene_outputs)}

    def loss(self, inputs: dict[str, Any], targets: dict[str, Any] | None) -> dict[str, Float[Tensor, '']]:
        """Compute the weighted losses (names with ``loss``) and the logged metrics of a batch.

        Raises:
            ConfigError: If the model has no losses, or targets or outputs that they need are missing.
        """
        if not self.losses:
            raise ConfigError(
                "this model was built without losses: set 'losses' in the model's config to train it"
            )
        # the measured speed is an input, and also the target of the predicted speed
        supervision = {**(targets or {}), 'speed': inputs['speed']}
        self._require_targets(supervision)
        teacher = self.decoder.teacher_inputs(supervision) if self.teacher_forcing_losses else None
        predictions = self.predict_raw(inputs, teacher)
        self._require_outputs(predictions)
        results: dict[str, Tensor] = {}
        for loss in self.losses.values():
            for name, value in loss(predictions, supervision).items():
                if name in results:
                    raise ConfigError(f'two of the configured losses are named {name!r}: leave one out')
                results[name] = value
        return results

    def predict(self, inputs: dict[str, Any]) -> list[dict[str, Float[Tensor, '...']]]:
        """Predict plan and action of each sample.

        Returns:
            A dict per sample: waypoints (K, 2) in the ego frame in meters and waypoints_stages
            (stages, K, 2); of a planner that predicts actions also alpha and beta (2,) of the current
            action and action (2,) with acceleration and steer in [-1, 1]; of an encoder with auxiliary
            heads also depth_logits (N, D, h, w) and seg_logits (N, classes, H / 2, W / 2).
        """
        outputs = self.predict_raw(inputs)
        stages = outputs['pred_waypoints'].float()
        predictions = {'waypoints': stages[:, -1], 'waypoints_stages': stages}
        if 'pred_alpha' in outputs:
            alpha, beta = (outputs[key][:, -1, 0].float() for key in ('pred_alpha', 'pred_beta'))
            predictions |= {'alpha': alpha, 'beta': beta, 'action': beta_mode_action(alpha, beta)}
        predictions |= {key: outputs[key] for key in AUXILIARY_KEYS if key in outputs}
        return [{key: value[b] for key, value in predictions.items()} for b in range(len(stages))]

    @property
    def teacher_forcing_losses(self) -> list[str]:
        """Names of the losses that read the teacher-forcing pass, which costs a second decoder pass."""
        return [name for name, loss in self.losses.items() if getattr(loss, 'uses_teacher_forcing', False)]

    def _part(self, name: str) -> nn.Module:
        parts = dict(self.named_modules())
        if not name or name not in parts:
            raise ConfigError(
                f'model.frozen lists {name!r}, which is no part of this model: it has '
                f'{", ".join(name for name, _ in self.named_children())}'
            )
        return parts[name]

    def _check_parts(self) -> None:
        parts = {name: getattr(self, name) for name in ('img_encoder', 'lidar_encoder', 'bev_fusion')}
        present = [name for name, part in parts.items() if part is not None]
        if self.scene_encoder is not None and present:
            raise ConfigError(
                f'model.scene_encoder encodes all sensors, but there is {present[0]} too: set one of them to '
                'None'
            )
        if present == ['bev_fusion']:
            raise ConfigError(
                'model.bev_fusion needs img_encoder or lidar_encoder: configure one, or set bev_fusion=None'
            )
        if self.flatten_head is not None and self.bev_fusion is None:
            raise ConfigError('model.flatten_head needs bev_fusion: configure it, or set flatten_head=None')
        if self.flatten_head is not None and (grid := self._camera_grid()) is not None:
            check_bev_size(grid.teacher_shape, self.flatten_head)

    def _camera_grid(self) -> Any:
        return getattr(getattr(self.img_encoder, 'view_transform', None), 'bev_grid', None)

    def _bev_size(self, flatten_head: ConfigDict | None) -> dict[str, tuple[int, int]]:
        """Size of the BEV map as an argument of the flatten head, if that needs one."""
        if flatten_head is None or 'bev_size' in flatten_head:
            return {}
        if (grid := self._camera_grid()) is not None:
            return {'bev_size': grid.teacher_shape}
        if self.img_encoder is not None or self.lidar_encoder is None or self.bev_fusion is None:
            return {}
        with torch.no_grad():  # the map of an empty point cloud
            bev_map = self.bev_fusion.eval()(None, self.lidar_encoder.eval()([torch.zeros(0, 5)]))
        self.bev_fusion.train()
        self.lidar_encoder.train()
        return {'bev_size': (bev_map.shape[-2], bev_map.shape[-1])}

    def _check_scene(self, scene: SceneFeatures, measurements: Measurements) -> None:
        if not isinstance(scene, SceneFeatures):
            name = type(self.scene_encoder).__name__
            raise ConfigError(
                f'model.scene_encoder {name} must return SceneFeatures, not {type(scene).__name__}'
            )
        given = {key: value for key, value in vars(scene).items() if value is not None}
        planner = type(self.decoder).__name__
        if missing := [key for key in self.decoder.scene_keys if key not in given]:
            raise ConfigError(
                f'model.decoder {planner} reads {", ".join(missing)}, which the sensor encoders of this '
                'model do not give: configure the encoder, or leave out the part of the decoder that reads it'
            )
        for key, (argument, channels) in self.decoder.scene_channels.items():
            value = measurements.features if key == 'measurements' else given[key]
            found = value.levels[-1].shape[2] if isinstance(value, ImagePyramid) else value.shape[1]
            if found != channels:
                raise ConfigError(
                    f'model.decoder {planner} is built for {key} of {channels} channels, but the encoder '
                    f'gives {found}: set model.decoder.{argument}={found}'
                )

    def _require_targets(self, targets: dict[str, Any]) -> None:
        if (names := self.teacher_forcing_losses) and not self.decoder.teacher_keys:
            raise ConfigError(
                f'model.losses.{names[0]} reads the teacher-forcing pass, which '
                f'{type(self.decoder).__name__} does not have: set model.losses.{names[0]}=None'
            )
        readers = {key: ['the teacher-forcing pass'] for key in (self.decoder.teacher_keys if names else ())}
        for loss in self.losses.values():
            for key in getattr(loss, 'target_keys', ()):
                readers.setdefault(key, []).append(type(loss).__name__)
        if missing := sorted(key for key in readers if key not in targets):
            listed = ', '.join(f'{key} (for {", ".join(readers[key])})' for key in missing)
            raise ConfigError(
                f"the training loss needs targets that the batch doesn't have: {listed}; let the "
                "dataset load its labels (test_mode=False), use mode='predict', or leave out the losses that "
                'need them'
            )

    def _require_outputs(self, outputs: Mapping[str, Any]) -> None:
        for name, loss in self.losses.items():
            if missing := [key for key in getattr(loss, 'output_keys', ()) if key not in outputs]:
                raise ConfigError(
                    f'model.losses.{name} reads {", ".join(missing)}, which no part of this model predicts: '
                    f'set model.losses.{name}=None, or configure the part'
                )


def check_bev_size(size: Iterable[int], flatten_head: nn.Module) -> None:
    """Check that the BEV map has the size that the flatten head expects, where that is known.

    Raises:
        ConfigError: With both sizes and the keys that determine them.
    """
    level_sizes = getattr(flatten_head, 'level_sizes', None)
    if level_sizes and level_sizes[0] != tuple(size):
        raise ConfigError(
            f'x_range, y_range and bev_cell give a BEV map of {tuple(size)} cells (forward, lateral), '
            f'but model.flatten_head.bev_size is {level_sizes[0]}: make them equal, and equal to the size of '
            "the teacher's maps where a loss compares with those"
        )


def _build(config: ConfigDict | None, **defaults: Any) -> Any:
    return None if config is None else MODELS.build(config, default_args=defaults or None)


def _require(part: str, keys: Iterable[str], inputs: Mapping[str, Any]) -> None:
    if missing := [key for key in keys if key not in inputs]:
        raise ConfigError(
            f'model.{part} reads {", ".join(missing)}, which the samples do not hold: let the pipeline load '
            f'it (LoadCameras, LoadPoints, LoadMeasurements), or leave model.{part} out'
        )


def _check_plan(planner: str, outputs: Any) -> None:
    waypoints = outputs.get('pred_waypoints') if isinstance(outputs, Mapping) else None
    if not isinstance(waypoints, Tensor) or waypoints.dim() != 4 or waypoints.shape[3] != WAYPOINT_DIM:
        found = f'of shape {tuple(waypoints.shape)}' if isinstance(waypoints, Tensor) else 'missing'
        raise ConfigError(
            f'model.decoder {planner} must return a dict with pred_waypoints (B, stages, K, 2), with one '
            f'stage for a plan that is not refined; they are {found}'
        )


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
