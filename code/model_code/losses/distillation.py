"""Distillation losses: value, features and BEV maps of the privileged teacher."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from thinktwice.errors import ConfigError
from thinktwice.model_code.losses.base import (
    DrivingLoss,
    Losses,
    Predictions,
    Targets,
    require_same_shape,
    smooth_l1,
)
from thinktwice.registry import MODELS

MAP_HINT = (
    'set x_range, y_range, bev_cell and model.flatten_head.bev_size so that the BEV maps of the model '
    'have the sizes of the teacher maps, or leave this loss out'
)
VECTOR_HINT = "flatten_head.out_channels must be the channels of the teacher's feature"


@MODELS.register_module()
class ValueLoss(DrivingLoss):
    """Smooth L1 error of the values of both branches, averaged over samples and summed: ``value_loss``.

    Args:
        weight: Weight of the sum.
    """

    target_keys = ('value',)
    output_keys = ('pred_value_traj', 'pred_value_ctrl')

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare pred_value_traj and pred_value_ctrl (B, 1) with value (B,)."""
        target = targets['value'].unsqueeze(1)
        error = smooth_l1(predictions['pred_value_traj'], target) + smooth_l1(
            predictions['pred_value_ctrl'], target
        )
        return {'value_loss': self.weight * error}


@MODELS.register_module()
class FeatureLoss(DrivingLoss):
    """Smooth L1 error of the features of both branches, averaged over all elements and summed.

    Gives ``flattened_feature_loss``.

    Args:
        weight: Weight of the sum.
    """

    target_keys = ('feature',)
    output_keys = ('pred_features_traj', 'pred_features_ctrl')

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare pred_features_traj and pred_features_ctrl with feature, all (B, C)."""
        feature = targets['feature']
        hint = 'set feature_channels of the coarse head to that of the teacher'
        require_same_shape('feature', predictions['pred_features_traj'], feature, hint)
        errors = [smooth_l1(predictions[f'pred_features_{branch}'], feature) for branch in ('traj', 'ctrl')]
        return {'flattened_feature_loss': self.weight * (errors[0] + errors[1])}


@MODELS.register_module()
class BEVFeatureLoss(DrivingLoss):
    """Clamped smooth L1 error of the BEV maps of the encoder, averaged over all elements of a level.

    Gives ``BEV_feature_loss<level>`` for each level, and ``BEV_vector_loss`` if it has a weight.

    Args:
        levels: Level numbers of the teacher, in the order of both ``bev_levels`` and ``grid_feature``.
        weights: Weight of each level.
        max_error: The error of an element is clamped to this.
        vector_weight: Weight of the error of the BEV vector against the teacher's feature. The paper
            compares the vectors of refined maps only (:class:`RefineFeatureLoss`); a short training learns
            the vector sooner from the teacher than through the heads that read it.

    Raises:
        ValueError: If ``levels`` and ``weights`` differ in length.
    """

    target_keys: tuple[str, ...] = ('grid_feature',)
    output_keys: tuple[str, ...] = ('bev_levels',)

    def __init__(
        self,
        levels: Sequence[int],
        weights: Sequence[float],
        max_error: float,
        vector_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if len(levels) != len(weights):
            raise ValueError(f'BEVFeatureLoss: levels={levels} and weights={weights} differ in length')
        self.levels = tuple(levels)
        self.weights = tuple(weights)
        self.max_error = max_error
        self.vector_weight = vector_weight
        if vector_weight:
            self.target_keys = ('grid_feature', 'feature')
            self.output_keys = ('bev_levels', 'bev_vector')

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare bev_levels with grid_feature, lists of (B, C, X, Y), bev_vector with feature."""
        maps, teacher_maps = predictions['bev_levels'], targets['grid_feature']
        if not len(maps) == len(teacher_maps) == len(self.levels):
            raise ConfigError(
                f'BEVFeatureLoss is configured for levels {self.levels}, but the model has {len(maps)} and '
                f'the targets {len(teacher_maps)} maps: levels of BEVFeatureLoss and of LoadSupervision '
                'need the same length, and flatten_head.level_channels one entry fewer'
            )
        losses = {}
        for level, weight, prediction, target in zip(
            self.levels, self.weights, maps, teacher_maps, strict=True
        ):
            require_same_shape(f'grid_feature, level {level},', prediction, target, MAP_HINT)
            losses[f'BEV_feature_loss{level}'] = weight * smooth_l1(prediction, target, self.max_error)
        if self.vector_weight:
            vector, feature = predictions['bev_vector'], targets['feature']
            require_same_shape('feature', vector, feature, VECTOR_HINT)
            losses['BEV_vector_loss'] = self.vector_weight * smooth_l1(vector, feature, self.max_error)
        return losses


@MODELS.register_module()
class RefineFeatureLoss(DrivingLoss):
    """Clamped smooth L1 error of the BEV map and vector of each refine layer, averaged over all elements.

    Gives ``refine_BEV_feature_loss<level>`` and ``refine_flattened_feature_loss``.

    Args:
        map_weight: Weight of the BEV map.
        vector_weight: Weight of the BEV vector.
        level: Level number of the teacher in the name of the loss: that of the first ``grid_feature``.
        max_error: The error of an element is clamped to this.
    """

    target_keys: tuple[str, ...] = ('grid_feature', 'feature')
    output_keys: tuple[str, ...] = ('refine_bev_map', 'refine_bev_vector')
    prefix = 'refine'

    def __init__(self, map_weight: float, vector_weight: float, level: int, max_error: float) -> None:
        super().__init__()
        self.map_weight = map_weight
        self.vector_weight = vector_weight
        self.level = level
        self.max_error = max_error

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare the maps (B, L, C, X, Y) and vectors (B, L, Cv) of the layers with the teacher's."""
        maps = predictions.get(f'{self.prefix}_bev_map')
        if maps is None or maps.shape[1] == 0:
            return {}
        vectors = predictions[f'{self.prefix}_bev_vector']
        teacher_map, feature = targets['grid_feature'][0], targets['feature']
        require_same_shape('grid_feature', maps[:, 0], teacher_map, MAP_HINT)
        require_same_shape('feature', vectors[:, 0], feature, VECTOR_HINT)
        map_error = smooth_l1(maps, teacher_map.unsqueeze(1), self.max_error)
        vector_error = smooth_l1(vectors, feature.unsqueeze(1), self.max_error)
        return {
            f'{self.prefix}_BEV_feature_loss{self.level}': self.map_weight * map_error,
            f'{self.prefix}_flattened_feature_loss': self.vector_weight * vector_error,
        }


@MODELS.register_module()
class TeacherForcingFeatureLoss(RefineFeatureLoss):
    """:class:`RefineFeatureLoss` of the teacher-forcing pass, and of its future BEV maps.

    Gives ``teacher_future_BEV_feature_loss<level>``, ``teacher_refine_BEV_feature_loss<level>`` and
    ``teacher_refine_flattened_feature_loss``.

    Args:
        future_weight: Weight of the future BEV maps.
        map_weight: Weight of the BEV map.
        vector_weight: Weight of the BEV vector.
        level: Level number of the teacher in the name of the loss: that of the first ``grid_feature``.
        max_error: The error of an element is clamped to this.
    """

    target_keys = ('grid_feature', 'feature', 'future_grid_feature')
    output_keys = ()
    uses_teacher_forcing = True
    prefix = 'teacher_refine'

    def __init__(
        self, future_weight: float, map_weight: float, vector_weight: float, level: int, max_error: float
    ) -> None:
        super().__init__(map_weight, vector_weight, level, max_error)
        self.future_weight = future_weight

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare maps, vectors and teacher_future_bev_map (B, L, K, C, X, Y) with the teacher's."""
        losses = super().forward(predictions, targets)
        if not losses:
            return {}
        future, teacher_future = predictions['teacher_future_bev_map'], targets['future_grid_feature']
        require_same_shape('future_grid_feature', future[:, 0], teacher_future, MAP_HINT)
        error = smooth_l1(future, teacher_future.unsqueeze(1), self.max_error)
        return {f'teacher_future_BEV_feature_loss{self.level}': self.future_weight * error, **losses}


@MODELS.register_module()
class TeacherForcingOffsetLoss(DrivingLoss):
    """Smooth L1 distance to zero of the offsets that the layers predict for the expert's plan.

    Gives ``teacher_wp_loss`` and ``teacher_action_loss``, each averaged over all elements.

    Args:
        waypoint_weight: Weight of the waypoint offsets in meters.
        action_weight: Weight of the control offsets before the softplus.
    """

    uses_teacher_forcing = True

    def __init__(self, waypoint_weight: float, action_weight: float) -> None:
        super().__init__()
        self.waypoint_weight = waypoint_weight
        self.action_weight = action_weight

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Read teacher_waypoint_offset (B, L, K, 2) and teacher_control_offset (B, L, K, 4)."""
        if 'teacher_waypoint_offset' not in predictions:
            return {}
        return {
            'teacher_wp_loss': self.waypoint_weight
            * _smooth_l1_to_zero(predictions['teacher_waypoint_offset']),
            'teacher_action_loss': self.action_weight
            * _smooth_l1_to_zero(predictions['teacher_control_offset']),
        }


def _smooth_l1_to_zero(values: Float[Tensor, '...']) -> Float[Tensor, '']:
    return smooth_l1(values, torch.zeros_like(values))
