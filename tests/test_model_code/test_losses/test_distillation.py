import pytest
import torch
import torch.nn.functional as F

from thinktwice.errors import ConfigError
from thinktwice.model_code.losses import (
    BEVFeatureLoss,
    FeatureLoss,
    RefineFeatureLoss,
    TeacherForcingFeatureLoss,
    TeacherForcingOffsetLoss,
    ValueLoss,
)

B, L, K, CV = 2, 3, 4, 6
SIZES = [(2, 5, 5), (4, 3, 3)]


def refined(prefix='refine', future='refine_future_bev_map', layers=L):
    return {
        f'{prefix}_bev_map': 4 * torch.randn(B, layers, *SIZES[0]),
        f'{prefix}_bev_vector': torch.randn(B, layers, CV),
        future: 4 * torch.randn(B, layers, K, *SIZES[0]),
    }


def targets():
    return {
        'value': torch.randn(B),
        'feature': torch.randn(B, CV),
        'grid_feature': [4 * torch.randn(B, *size) for size in SIZES],
        'future_grid_feature': 4 * torch.randn(B, K, *SIZES[0]),
    }


def capped(prediction, target):
    """Mean of the capped errors, element by element from PyTorch's own loss."""
    errors = F.smooth_l1_loss(prediction, target, reduction='none')
    assert (errors > 5).any() or prediction.ndim < 3  # the cap is exercised
    return torch.minimum(errors, torch.tensor(5.0)).mean()


def test_value_loss_adds_the_means_of_both_branches() -> None:
    teacher = targets()
    predicted = {'pred_value_traj': torch.randn(B, 1), 'pred_value_ctrl': torch.randn(B, 1)}
    expected = sum(F.smooth_l1_loss(value[:, 0], teacher['value']) for value in predicted.values())
    torch.testing.assert_close(ValueLoss(weight=0.5)(predicted, teacher)['value_loss'], 0.5 * expected)


def test_feature_loss_adds_both_branches() -> None:
    teacher = targets()
    predicted = {'pred_features_traj': torch.randn(B, CV), 'pred_features_ctrl': torch.randn(B, CV)}
    expected = sum(F.smooth_l1_loss(value, teacher['feature']) for value in predicted.values())
    torch.testing.assert_close(
        FeatureLoss(weight=2)(predicted, teacher)['flattened_feature_loss'], 2 * expected
    )


def test_bev_feature_loss_weighs_each_level() -> None:
    teacher = targets()
    maps = [4 * torch.randn(B, *size) for size in SIZES]
    losses = BEVFeatureLoss((2, 3), (0.25, 0.5), max_error=5.0)({'bev_levels': maps}, teacher)
    assert list(losses) == ['BEV_feature_loss2', 'BEV_feature_loss3']
    for (_, value), weight, prediction, target in zip(
        losses.items(), (0.25, 0.5), maps, teacher['grid_feature'], strict=True
    ):
        torch.testing.assert_close(value, weight * capped(prediction, target))


def test_bev_feature_loss_compares_the_vector_where_it_has_a_weight() -> None:
    teacher = targets()
    predicted = {
        'bev_levels': [4 * torch.randn(B, *size) for size in SIZES],
        'bev_vector': 9 * torch.randn(B, CV),
    }
    loss = BEVFeatureLoss((2, 3), (1, 1), max_error=5.0, vector_weight=0.5)
    expected = 0.5 * capped(predicted['bev_vector'], teacher['feature'])
    torch.testing.assert_close(loss(predicted, teacher)['BEV_vector_loss'], expected)
    assert 'feature' in loss.target_keys


def test_refine_loss_is_the_mean_over_layers() -> None:
    predicted, teacher = refined(), targets()
    losses = RefineFeatureLoss(map_weight=0.25, vector_weight=0.005, level=2, max_error=5.0)(
        predicted, teacher
    )
    per_layer = [capped(predicted['refine_bev_map'][:, i], teacher['grid_feature'][0]) for i in range(L)]
    torch.testing.assert_close(losses['refine_BEV_feature_loss2'], 0.25 * torch.stack(per_layer).mean())
    per_layer = [capped(predicted['refine_bev_vector'][:, i], teacher['feature']) for i in range(L)]
    torch.testing.assert_close(losses['refine_flattened_feature_loss'], 0.005 * torch.stack(per_layer).mean())


def test_teacher_feature_loss_compares_future_maps_step_by_step() -> None:
    predicted, teacher = refined('teacher_refine', 'teacher_future_bev_map'), targets()
    loss = TeacherForcingFeatureLoss(
        future_weight=0.5, map_weight=0.25, vector_weight=0.05, level=2, max_error=5.0
    )
    losses = loss(predicted, teacher)
    assert set(losses) == {
        'teacher_future_BEV_feature_loss2',
        'teacher_refine_BEV_feature_loss2',
        'teacher_refine_flattened_feature_loss',
    }
    future = predicted['teacher_future_bev_map']
    errors = [
        capped(future[:, i, k], teacher['future_grid_feature'][:, k]) for i in range(L) for k in range(K)
    ]
    torch.testing.assert_close(losses['teacher_future_BEV_feature_loss2'], 0.5 * torch.stack(errors).mean())


def test_teacher_offsets_are_pulled_to_zero() -> None:
    predicted = {
        'teacher_waypoint_offset': torch.randn(B, L, K, 2),
        'teacher_control_offset': torch.randn(B, L, K, 4),
    }
    losses = TeacherForcingOffsetLoss(waypoint_weight=2, action_weight=3)(predicted, {})
    for name, weight, offset in zip(losses, (2, 3), predicted.values(), strict=True):
        torch.testing.assert_close(losses[name], weight * F.smooth_l1_loss(offset, torch.zeros_like(offset)))
    assert list(losses) == ['teacher_wp_loss', 'teacher_action_loss']


def test_without_refine_layers_there_is_nothing_to_compare() -> None:
    assert RefineFeatureLoss(1, 1, 2, 5.0)(refined(layers=0), targets()) == {}
    assert TeacherForcingFeatureLoss(1, 1, 1, 2, 5.0)({}, targets()) == {}
    assert TeacherForcingOffsetLoss(1, 1)({}, {}) == {}


def test_maps_of_another_size_are_named_with_a_way_out() -> None:
    teacher = targets()
    maps = [torch.randn(B, 2, 7, 7), torch.randn(B, *SIZES[1])]
    with pytest.raises(
        ConfigError, match=r'grid_feature, level 2, is \(2, 2, 5, 5\).*bev_cell.*leave .* out'
    ):
        BEVFeatureLoss((2, 3), (1, 1), 5.0)({'bev_levels': maps}, teacher)
    with pytest.raises(ConfigError, match='configured for levels'):
        BEVFeatureLoss((2,), (1,), 5.0)({'bev_levels': maps}, teacher)
    with pytest.raises(ValueError, match='differ in length'):
        BEVFeatureLoss((2, 3), (1,), 5.0)
    with pytest.raises(ConfigError, match='feature_channels of the coarse head'):
        FeatureLoss(1)(
            {'pred_features_traj': torch.zeros(B, 3), 'pred_features_ctrl': torch.zeros(B, 3)}, teacher
        )
