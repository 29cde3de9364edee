"""The driving model: encoders, fusion, decoder and losses."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from mmengine.model import BaseModel
from torch import Tensor, nn

from thinktwice.errors import ConfigError
from thinktwice.model_code.control import beta_mode_action
from thinktwice.model_code.dense_heads import TeacherInputs, ego_to_image
from thinktwice.registry import MODELS

ConfigDict = dict[str, Any]
TEACHER_KEYS = ('waypoints', 'action_alpha', 'action_beta', 'future_action_alpha', 'future_action_beta')


@MODELS.register_module()
class EncoderDecoder(BaseModel):
    """End-to-end driving from cameras and LiDAR (Jia et al., "Think Twice before Driving", 2023).

    Args:
        img_encoder: Config of the camera encoder: BEV map, image features, depth and segmentation.
        lidar_encoder: Config of the LiDAR encoder: point clouds to a BEV map.
        bev_fusion: Config of the fusion of both BEV maps.
        flatten_head: Config of the head that turns a BEV feature map into smaller maps and a vector.
        measurement_encoder: Config of the encoder of speed, target point and command.
        decoder: Config of the decoder, which predicts and refines the plan.
        losses: Configs of the terms of the training objective; may be empty for inference.
        data_preprocessor: Config of the preprocessing on the device.
        init_cfg: Initialization config of mmengine.

    Raises:
        ConfigError: If ``img_encoder`` and ``flatten_head`` differ in the size of the BEV map.
    """

    def __init__(
        self,
        img_encoder: ConfigDict,
        lidar_encoder: ConfigDict,
        bev_fusion: ConfigDict,
        flatten_head: ConfigDict,
        measurement_encoder: ConfigDict,
        decoder: ConfigDict,
        losses: Sequence[ConfigDict] = (),
        data_preprocessor: ConfigDict | None = None,
        init_cfg: ConfigDict | None = None,
    ) -> None:
        # built here, because mmengine finds our registry only if it is the default scope
        preprocessor = MODELS.build(data_preprocessor) if data_preprocessor else None
        super().__init__(data_preprocessor=preprocessor, init_cfg=init_cfg)
        self.img_encoder = MODELS.build(img_encoder)
        self.lidar_encoder = MODELS.build(lidar_encoder)
        self.bev_fusion = MODELS.build(bev_fusion)
        self.flatten_head = MODELS.build(flatten_head)
        check_bev_size(self.img_encoder, self.flatten_head)
        self.measurement_encoder = MODELS.build(measurement_encoder)
        self.decoder = MODELS.build(decoder)
        self.losses = nn.ModuleList(MODELS.build(loss) for loss in losses)

    def forward(
        self,
        inputs: dict[str, Any],
        targets: dict[str, Any] | None = None,
        metas: Sequence[dict[str, Any]] | None = None,
        mode: str = 'tensor',
    ) -> dict[str, Any] | list[dict[str, Float[Tensor, '...']]]:
        """Run the model on a preprocessed batch.

        Args:
            inputs: img (B, T, N, 3, H, W) normalized, points (one (P, 5) per sample), intrinsics
                (B, T, N, 3, 3), cam2ego (B, T, N, 4, 4), frame2key (B, T, 4, 4), ida_mats
                (B, T, N, 4, 4), speed (B,) m/s, target_point (B, 2) in the ego frame in meters,
                command (B,) int64.
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

    def predict_raw(self, inputs: dict[str, Any], teacher: TeacherInputs | None = None) -> dict[str, Any]:
        """Compute the outputs of the decoder and of the auxiliary heads.

        Args:
            inputs: See :meth:`forward`.
            teacher: The expert's plan, for the teacher-forcing pass.

        Returns:
            The outputs of the decoder (see its forward) and bev_map (B, C, X, Y), bev_levels (the BEV
            map and the smaller maps), depth_logits (B, N, D, h, w) and seg_logits
            (B, N, classes, H / 2, W / 2).
        """
        img, intrinsics, cam2ego = inputs['img'], inputs['intrinsics'], inputs['cam2ego']
        cameras = self.img_encoder(img, intrinsics, cam2ego, inputs['frame2key'], inputs['ida_mats'])
        lidar_map = self.lidar_encoder(inputs['points'])
        bev_map = self.bev_fusion(cameras.bev, lidar_map)
        bev_vector, smaller_maps = self.flatten_head(bev_map)
        measurement = self.measurement_encoder(inputs['speed'], inputs['target_point'], inputs['command'])
        predictions = self.decoder(
            bev_vector=bev_vector,
            bev_map=bev_map,
            measurement=measurement,
            fpn=cameras.fpn,
            ego2img=ego_to_image(intrinsics[:, -1].float(), cam2ego[:, -1].float()),  # of the key frame
            ida_mats=inputs['ida_mats'][:, -1].float(),
            image_size=(img.shape[-2], img.shape[-1]),
            lidar_map=lidar_map,
            flatten_head=self.flatten_head,
            teacher=teacher,
        )
        return {
            **predictions,
            'bev_map': bev_map,
            'bev_levels': [bev_map, *smaller_maps],
            'depth_logits': cameras.depth_logits,
            'seg_logits': cameras.seg_logits,
        }

    def loss(self, inputs: dict[str, Any], targets: dict[str, Any] | None) -> dict[str, Float[Tensor, '']]:
        """Compute the weighted losses (names with ``loss``) and the logged metrics of a batch.

        Raises:
            ConfigError: If the model has no losses, or targets that they need are missing.
        """
        if not self.losses:
            raise ConfigError(
                "this model was built without losses: set 'losses' in the model's config to train it"
            )
        # the measured speed is an input, and also the target of the predicted speed
        supervision = {**(targets or {}), 'speed': inputs['speed']}
        self._require_targets(supervision)
        teacher = teacher_inputs(supervision) if self.uses_teacher_forcing else None
        predictions = self.predict_raw(inputs, teacher)
        results: dict[str, Tensor] = {}
        for loss in self.losses:
            for name, value in loss(predictions, supervision).items():
                if name in results:
                    raise ConfigError(f'two of the configured losses are named {name!r}: leave one out')
                results[name] = value
        return results

    def predict(self, inputs: dict[str, Any]) -> list[dict[str, Float[Tensor, '...']]]:
        """Predict plan and action of each sample.

        Returns:
            A dict per sample: waypoints (K, 2) in the ego frame in meters, waypoints_stages
            (L + 1, K, 2), alpha and beta (2,) of the current action, action (2,) with acceleration
            and steer in [-1, 1], depth_logits (N, D, h, w) and seg_logits (N, classes, H / 2, W / 2).
        """
        predictions = self.predict_raw(inputs)
        stages = predictions['pred_waypoints'].float()
        alpha = predictions['pred_alpha'][:, -1, 0].float()
        beta = predictions['pred_beta'][:, -1, 0].float()
        action = beta_mode_action(alpha, beta)
        return [
            {
                'waypoints': stages[b, -1],
                'waypoints_stages': stages[b],
                'alpha': alpha[b],
                'beta': beta[b],
                'action': action[b],
                'depth_logits': predictions['depth_logits'][b],
                'seg_logits': predictions['seg_logits'][b],
            }
            for b in range(len(stages))
        ]

    @property
    def uses_teacher_forcing(self) -> bool:
        """Whether a configured loss reads the teacher-forcing pass, which costs a second decoder pass."""
        return any(getattr(loss, 'uses_teacher_forcing', False) for loss in self.losses)

    def _require_targets(self, targets: dict[str, Any]) -> None:
        needed = dict.fromkeys(TEACHER_KEYS if self.uses_teacher_forcing else (), 'the teacher-forcing pass')
        needed |= {
            key: type(loss).__name__ for loss in self.losses for key in getattr(loss, 'target_keys', ())
        }
        missing = {key: reader for key, reader in needed.items() if key not in targets}
        if missing:
            listed = ', '.join(f'{key} (for {reader})' for key, reader in sorted(missing.items()))
            raise ConfigError(
                f"the training loss needs targets that the batch doesn't have: {listed}; let the "
                "dataset load its labels (test_mode=False), use mode='predict', or leave out the losses that "
                'need them'
            )


def teacher_inputs(targets: dict[str, Any]) -> TeacherInputs:
    """The expert's plan of a batch in float32, starting with the current step."""
    return TeacherInputs(
        waypoints=targets['waypoints'].float(),
        alpha=torch.cat(
            [targets['action_alpha'].unsqueeze(1), targets['future_action_alpha']], dim=1
        ).float(),
        beta=torch.cat([targets['action_beta'].unsqueeze(1), targets['future_action_beta']], dim=1).float(),
    )


def check_bev_size(img_encoder: nn.Module, flatten_head: nn.Module) -> None:
    """Check that the BEV map has the size that the flatten head expects, where both sizes are known.

    Raises:
        ConfigError: With both sizes and the keys that determine them.
    """
    grid = getattr(getattr(img_encoder, 'view_transform', None), 'bev_grid', None)
    level_sizes = getattr(flatten_head, 'level_sizes', None)
    if grid is not None and level_sizes and level_sizes[0] != grid.teacher_shape:
        raise ConfigError(
            f'x_range, y_range and bev_cell give a BEV map of {grid.teacher_shape} cells (forward, lateral), '
            f'but model.flatten_head.bev_size is {level_sizes[0]}: make them equal, and equal to the size of '
            "the teacher's maps where a loss compares with those"
        )
