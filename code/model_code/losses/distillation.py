"""Losses that imitate the privileged teacher's value, features and BEV maps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from thinktwice.errors import ConfigError
from thinktwice.model_code.losses.base import (
    DrivingLoss,
    Predictions,
    Targets,
    require_same_shape,
    smooth_l1,
)
from thinktwice.registry import MODELS

MAP_HINT = (
    'choose x_range, y_range, bev_cell and model.flatten_head.bev_size so that the BEV maps of the model '
    'have the sizes of the teacher maps, or leave this loss out'
)


@MODELS.register_module()
class ValueLoss(DrivingLoss):
    """Smooth-L1 of both branches' values, each the mean over samples, summed: ``value_loss``.

    Args:
        weight: of the sum.
    """

    target_keys = ('value',)

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Compare pred_value_traj and pred_value_ctrl (B, 1) with value (B,)."""
        target = targets['value'].unsqueeze(1)
        error = smooth_l1(predictions['pred_value_traj'], target) + smooth_l1(
            predictions['pred_value_ctrl'], target
        )
        return {'value_loss': self.weight * error}


@MODELS.register_module()
class FeatureLoss(DrivingLoss):
    """Smooth-L1 of both branches' features, each the mean over samples and channels, summed.

    Gives ``flattened_feature_loss``.

    Args:
        weight: of the sum.
    """

    target_keys = ('feature',)

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Compare pred_features_traj and pred_features_ctrl with feature, all (B, C)."""
        feature = targets['feature']
        hint = "the coarse head's feature_channels must be the teacher's"
        require_same_shape('feature', predictions['pred_features_traj'], feature, hint)
        errors = [smooth_l1(predictions[f'pred_features_{branch}'], feature) for branch in ('traj', 'ctrl')]
        return {'flattened_feature_loss': self.weight * (errors[0] + errors[1])}


@MODELS.register_module()
class BEVFeatureLoss(DrivingLoss):
    """Capped smooth-L1 of the encoder's BEV maps, the mean over all elements of a level.

    Gives ``BEV_feature_loss<level>`` for each level.

    Args:
        levels: numbers of the teacher's levels, in the order of both bev_levels and grid_feature.
        weights: one per level.
        max_error: cap of an element's error.

    Raises:
        ValueError: if there isn't one weight per level.
    """

    target_keys = ('grid_feature',)

    def __init__(self, levels: Sequence[int], weights: Sequence[float], max_error: float) -> None:
        super().__init__()
        if len(levels) != len(weights):
            raise ValueError(f'BEVFeatureLoss: levels={levels} and weights={weights} differ in number')
        self.levels = tuple(levels)
        self.weights = tuple(weights)
        self.max_error = max_error

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Compare bev_levels with grid_feature, both lists of (B, C, Y, X)."""
        maps, teacher_maps = predictions['bev_levels'], targets['grid_feature']
        if not len(maps) == len(teacher_maps) == len(self.levels):
            raise ConfigError(
                f'BEVFeatureLoss is configured for levels {self.levels}, but the model has {len(maps)} and '
                f'the targets {len(teacher_maps)} maps: make levels of BEVFeatureLoss, levels of '
                'LoadSupervision and flatten_head.level_channels (one fewer) fit together'
            )
        losses = {}
        for level, weight, prediction, target in zip(
            self.levels, self.weights, maps, teacher_maps, strict=True
        ):
            require_same_shape(f'grid_feature, level {level},', prediction, target, MAP_HINT)
            losses[f'BEV_feature_loss{level}'] = weight * smooth_l1(prediction, target, self.max_error)
        return losses


@MODELS.register_module()
class RefineFeatureLoss(DrivingLoss):
    """Capped smooth-L1 of each refine layer's BEV map and vector, mean over layers and all elements.

    Gives ``refine_BEV_feature_loss<level>`` and ``refine_flattened_feature_loss``.

    Args:
        map_weight: of the BEV map.
        vector_weight: of the BEV vector.
        level: number of the teacher's level, in the loss's name; it is the first of grid_feature.
        max_error: cap of an element's error.
    """

    target_keys: tuple[str, ...] = ('grid_feature', 'feature')
    prefix = 'refine'

    def __init__(self, map_weight: float, vector_weight: float, level: int, max_error: float) -> None:
        super().__init__()
        self.map_weight = map_weight
        self.vector_weight = vector_weight
        self.level = level
        self.max_error = max_error

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Compare the layers' maps (B, L, C, Y, X) and vectors (B, L, Cv) with the teacher's."""
        maps = predictions.get(f'{self.prefix}_bev_map')
        if maps is None or maps.shape[1] == 0:
            return {}
        vectors = predictions[f'{self.prefix}_bev_vector']
        teacher_map, feature = targets['grid_feature'][0], targets['feature']
        require_same_shape('grid_feature', maps[:, 0], teacher_map, MAP_HINT)
        require_same_shape('feature', vectors[:, 0], feature, "vector_channels must be the teacher's")
        map_error = smooth_l1(maps, teacher_map.unsqueeze(1), self.max_error)
        vector_error = smooth_l1(vectors, feature.unsqueeze(1), self.max_error)
        return {
            f'{self.prefix}_BEV_feature_loss{self.level}': self.map_weight * map_error,
            f'{self.prefix}_flattened_feature_loss': self.vector_weight * vector_error,
        }


@MODELS.register_module()
class TeacherForcingFeatureLoss(RefineFeatureLoss):
    """As :class:`RefineFeatureLoss` for the teacher-forcing pass, and its future BEV maps.

    Gives ``teacher_future_BEV_feature_loss<level>``, ``teacher_refine_BEV_feature_loss<level>`` and
    ``teacher_refine_flattened_feature_loss``.

    Args:
        future_weight: of the future BEV maps.
        map_weight: of the BEV map.
        vector_weight: of the BEV vector.
        level: number of the teacher's level, in the loss's name; it is the first of grid_feature.
        max_error: cap of an element's error.
    """

    target_keys = ('grid_feature', 'feature', 'future_grid_feature')
    uses_teacher_forcing = True
    prefix = 'teacher_refine'

    def __init__(
        self, future_weight: float, map_weight: float, vector_weight: float, level: int, max_error: float
    ) -> None:
        super().__init__(map_weight, vector_weight, level, max_error)
        self.future_weight = future_weight

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Compare maps, vectors and teacher_future_bev_map (B, L, K, C, Y, X) with the teacher's."""
        losses = super().forward(predictions, targets)
        if not losses:
            return {}
        future, teacher_future = predictions['teacher_future_bev_map'], targets['future_grid_feature']
        require_same_shape('future_grid_feature', future[:, 0], teacher_future, MAP_HINT)
        error = smooth_l1(future, teacher_future.unsqueeze(1), self.max_error)
        return {f'teacher_future_BEV_feature_loss{self.level}': self.future_weight * error, **losses}


@MODELS.register_module()
class TeacherForcingOffsetLoss(DrivingLoss):
    """Smooth-L1 of the offsets that the layers propose for the expert's own plan, against none.

    Gives ``teacher_wp_loss`` and ``teacher_action_loss``, each the mean over samples, layers,
    steps and elements.

    Args:
        waypoint_weight: of the waypoints' offsets, meters.
        action_weight: of the controls' offsets before the softplus.
    """

    uses_teacher_forcing = True

    def __init__(self, waypoint_weight: float, action_weight: float) -> None:
        super().__init__()
        self.waypoint_weight = waypoint_weight
        self.action_weight = action_weight

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Read teacher_waypoint_offset (B, L, K, 2) and teacher_control_offset (B, L, K, 4)."""
        if 'teacher_waypoint_offset' not in predictions:
            return {}
        return {
            'teacher_wp_loss': self.waypoint_weight
            * _smooth_l1_to_zero(predictions['teacher_waypoint_offset']),
            'teacher_action_loss': self.action_weight
            * _smooth_l1_to_zero(predictions['teacher_control_offset']),
        }


def _smooth_l1_to_zero(values: Tensor) -> Tensor:
    return smooth_l1(values, torch.zeros_like(values))
