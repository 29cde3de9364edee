"""The driving model: encoders, fusion, decoder and losses, wired together."""

from collections.abc import Sequence
from typing import Any

import torch
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
    """End-to-end driving from cameras and LiDAR (the paper's model).

    The parts are given as configs of registered modules.

    Args:
        img_encoder: cameras of all frames to BEV map, image features, depth and segmentation.
        lidar_encoder: point clouds to a BEV map.
        bev_fusion: both maps to the BEV feature.
        flatten_head: a BEV feature to smaller maps and a vector, for observed and predicted scenes.
        measurement_encoder: speed, target point and command to a vector.
        decoder: the plan, from coarse to refined.
        losses: terms of the training objective; may be empty for inference.
        data_preprocessor: moves a batch to the device and normalizes it.
        init_cfg: mmengine's.

    Raises:
        ConfigError: if the BEV map of ``img_encoder`` does not have the size that ``flatten_head`` takes.
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
        # built here: mmengine would look in its own registry, which knows ours only under a default scope
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
    ) -> dict[str, Any] | list[dict[str, Tensor]]:
        """Run the model on a preprocessed batch.

        Args:
            inputs: img (B, T, N, 3, H, W) normalized, points (list of B (P, 5)), intrinsics
                (B, T, N, 3, 3), cam2ego (B, T, N, 4, 4), frame2key (B, T, 4, 4), ida_mats
                (B, T, N, 4, 4), speed (B,) m/s, target_point (B, 2) ego meters, command (B,) int64.
            targets: the supervision, needed and read in mode ``loss`` only.
            metas: what is known about each sample, not used here.
            mode: ``tensor``, ``loss`` or ``predict``.

        Returns:
            The raw predictions, the named losses and metrics, or one prediction per sample.

        Raises:
            ValueError: on another mode, or if mode ``loss`` lacks targets.
        """
        if mode == 'tensor':
            return self.predict_raw(inputs)
        if mode == 'loss':
            return self.loss(inputs, targets)
        if mode == 'predict':
            return self.predict(inputs)
        raise ValueError(f"mode={mode!r} must be 'tensor', 'loss' or 'predict'")

    def predict_raw(self, inputs: dict[str, Any], teacher: TeacherInputs | None = None) -> dict[str, Any]:
        """All predictions of the decoder and of the auxiliary heads.

        Args:
            inputs: as in :meth:`forward`.
            teacher: the expert's plan for the teacher-forcing pass, if wanted.

        Returns:
            The decoder's outputs (see its forward) and bev_map (B, C, Y, X), bev_levels (list of
            maps, the BEV map first), depth_logits (B, N, D, h, w), seg_logits (B, N, classes, h', w').
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
            ego2img=ego_to_image(intrinsics[:, -1].float(), cam2ego[:, -1].float()),  # the key frame's
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

    def loss(self, inputs: dict[str, Any], targets: dict[str, Any] | None) -> dict[str, Tensor]:
        """Weighted losses (names with ``loss``) and metrics of a batch, scalars.

        Raises:
            ConfigError: if the targets, or some that the configured losses need, are missing.
        """
        if not self.losses:
            raise ConfigError(
                "this model was built without losses: set 'losses' in the model's config to train it"
            )
        # the speed is measured, and what the model says about it is supervised too
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

    def predict(self, inputs: dict[str, Any]) -> list[dict[str, Tensor]]:
        """Plan and action of each sample, without any target.

        Returns:
            B dicts: waypoints (K, 2) ego meters, waypoints_stages (L + 1, K, 2), alpha and beta
            (2,) of the present action, action (2,) acceleration and steer in [-1, 1].
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
    """The expert's plan of a batch, present step first, in float32."""
    return TeacherInputs(
        waypoints=targets['waypoints'].float(),
        alpha=torch.cat(
            [targets['action_alpha'].unsqueeze(1), targets['future_action_alpha']], dim=1
        ).float(),
        beta=torch.cat([targets['action_beta'].unsqueeze(1), targets['future_action_beta']], dim=1).float(),
    )


def check_bev_size(img_encoder: nn.Module, flatten_head: nn.Module) -> None:
    """Refuse a BEV map of another size than the flatten head takes, where both parts tell theirs.

    Raises:
        ConfigError: with both sizes and the keys that they follow from.
    """
    grid = getattr(getattr(img_encoder, 'view_transform', None), 'bev_grid', None)
    level_sizes = getattr(flatten_head, 'level_sizes', None)
    if grid is not None and level_sizes and level_sizes[0] != grid.teacher_shape:
        raise ConfigError(
            f'x_range, y_range and bev_cell give a BEV map of {grid.teacher_shape} cells (forward, lateral), '
            f'but model.flatten_head.bev_size is {level_sizes[0]}: make them equal, and equal to the size of '
            "the teacher's maps where a loss compares with those"
        )
