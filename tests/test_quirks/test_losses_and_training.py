"""Rows M9, M12, M21, M25, M31, M34, Q11, Q12 of docs/reference_quirks.md.

M31 is checked on the losses of the shipped config; test_coverage lists what holds the other rows.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from thinktwice.config.load import load_config
from thinktwice.model_code.backbones import BEVFlattenHead
from thinktwice.model_code.dense_heads import TeacherInputs, ThinkTwiceDecoder
from thinktwice.model_code.losses import ActionLoss, DepthLoss, SegmentationLoss, ValueLoss
from thinktwice.model_code.photometric import PhotometricAugmentation
from thinktwice.registry import MODELS
from thinktwice.release_2023.model import ReferencePhotometricAugmentation, ReferenceSegmentationLoss

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'thinktwice.py'
both = pytest.mark.parametrize('corrected', [True, False], ids=['corrected', '2023'])


def segmentation_loss(corrected):
    loss = SegmentationLoss if corrected else ReferenceSegmentationLoss
    return loss(weight=1.0, alpha=0.5, gamma=2.0, ignore_index=255)


@both
def test_each_pixel_is_weighed_by_its_own_difficulty(corrected):  # M21
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 0, 0, 0] = 6.0  # the first pixel is right, the second undecided
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    logits.requires_grad_()
    segmentation_loss(corrected).pixel_loss(logits, labels).backward()
    slopes = logits.grad[0, 0, 0].abs()
    plain = torch.zeros_like(logits).copy_(logits.detach()).requires_grad_()
    F.cross_entropy(plain, labels).backward()
    plain_slopes = plain.grad[0, 0, 0].abs()
    # with the factor of the mean both pixels keep the proportion of the plain cross-entropy
    keeps_proportion = torch.allclose(slopes[0] / slopes[1], plain_slopes[0] / plain_slopes[1], rtol=1e-4)
    assert keeps_proportion != corrected


def test_segmentation_loss_of_2023_is_the_published_formula():  # M21
    logits, labels = torch.randn(2, 12, 4, 6), torch.randint(0, 12, (2, 4, 6))
    labels[0, 0] = 255
    c = F.cross_entropy(logits, labels, ignore_index=255)
    expected = 0.5 * (1 - torch.exp(-c)) ** 2 * c
    assert torch.allclose(segmentation_loss(False).pixel_loss(logits, labels), expected)


def test_one_sample_a_process_can_train():  # M9
    head = BEVFlattenHead(bev_size=(21, 21), in_channels=4, level_channels=(4, 4, 4), out_channels=8)
    vector, _ = head(torch.randn(1, 4, 21, 21))
    vector.sum().backward()
    assert all(p.grad is not None for p in head.parameters())
    # what 2023 had in its place refuses such a batch
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        nn.BatchNorm1d(512)(torch.randn(1, 512))


def test_value_loss_is_one_number():  # M12
    predictions = {'pred_value_traj': torch.randn(3, 1), 'pred_value_ctrl': torch.randn(3, 1)}
    (loss,) = ValueLoss(weight=0.001)(predictions, {'value': torch.randn(3)}).values()
    assert loss.dim() == 0


@pytest.mark.parametrize('objective', ['sigmoid', 'softmax'])
def test_depth_can_be_trained_as_it_is_used(objective):  # M25, a choice
    logits = torch.zeros(1, 1, 4, 1, 1, requires_grad=True)
    targets = {'depth': torch.full((1, 1, 16, 16), 2.2)}
    loss = DepthLoss(weight=1.0, depth_bounds=(1.0, 5.0, 1.0), objective=objective)
    loss({'depth_logits': logits}, targets)['depth_loss'].backward()
    # the distribution that the lift uses ignores a shift of all logits; its own loss does as well
    shift_invariant = bool(logits.grad.sum().abs() < 1e-6)
    assert shift_invariant == (objective == 'softmax')


def test_targets_of_zero_stay_finite():  # M34
    zeros = torch.zeros(1, 4, 2)
    controls = ThinkTwiceDecoder.teacher_controls(None, TeacherInputs(zeros, zeros, zeros))
    assert controls.isfinite().all()
    assert (zeros + torch.log(-torch.expm1(-zeros))).isinf().all()  # the formula of 2023
    positive = torch.ones(1, 6, 4, 2)
    targets = {
        f'{name}action_{parameter}': torch.zeros(shape)
        for name, shape in {'': (1, 2), 'future_': (1, 3, 2)}.items()
        for parameter in ('alpha', 'beta')
    }
    losses = ActionLoss(weight=1.0, future_weight=1.0)(
        {'pred_alpha': positive, 'pred_beta': positive}, targets
    )
    assert all(value.isfinite() for value in losses.values())


def augmentation(corrected):
    return PhotometricAugmentation() if corrected else ReferencePhotometricAugmentation()


@both
def test_augmentation_grows_with_the_whole_run(corrected):  # Q11
    img = torch.randint(0, 256, (1, 3, 24, 32), dtype=torch.uint8)
    late = 60 * 1481 - 1
    grown = [
        (augmentation(corrected)(img, seed, late) != augmentation(corrected)(img, seed, 1480)).any()
        for seed in range(20)
    ]
    assert any(grown) == corrected


def test_schedule_of_2023_ends_at_step_185():  # Q11
    seen = []

    class Recorder(ReferencePhotometricAugmentation):
        def limits(self, iteration):
            seen.append(iteration)
            return super().limits(iteration)

    augment = Recorder()
    for iteration in (0, 7, 8, 1480, 1481, 88_859):
        augment(torch.zeros(1, 3, 4, 4), 0, iteration)
    assert seen == [0, 0, 1, 185, 0, 185]


@both
def test_noise_changes_pixels(corrected):  # Q12
    std = augmentation(corrected).limits(0).noise_std
    gray = torch.full((10_000,), 100.0)
    changed = bool(((gray + std * torch.randn(10_000)).round() != gray).any())
    assert changed == corrected


def random_outputs(batch=2, layers=2, steps=4):
    """Predictions and targets of any shape that the losses of the config take."""
    maps = [(32, 3, 3), (64, 2, 2), (128, 2, 2), (256, 1, 1)]
    positive = lambda *shape: 0.5 + torch.rand(shape)  # noqa: E731
    predictions = {
        'pred_speed': torch.randn(batch, 1),
        'pred_value_traj': torch.randn(batch, 1),
        'pred_value_ctrl': torch.randn(batch, 1),
        'pred_features_traj': torch.randn(batch, 256),
        'pred_features_ctrl': torch.randn(batch, 256),
        'pred_waypoints': torch.randn(batch, layers + 1, steps, 2),
        'pred_alpha': positive(batch, layers + 1, steps, 2),
        'pred_beta': positive(batch, layers + 1, steps, 2),
        'bev_levels': [torch.randn(batch, *shape) for shape in maps],
        'depth_logits': torch.randn(batch, 1, 80, 1, 2),
        'seg_logits': torch.randn(batch, 1, 12, 8, 16),
        'teacher_waypoint_offset': torch.randn(batch, layers, steps, 2),
        'teacher_control_offset': torch.randn(batch, layers, steps, 4),
        'teacher_future_bev_map': torch.randn(batch, layers, steps, *maps[0]),
    }
    for prefix in ('refine', 'teacher_refine'):
        predictions[f'{prefix}_bev_vector'] = torch.randn(batch, layers, 256)
        predictions[f'{prefix}_bev_map'] = torch.randn(batch, layers, *maps[0])
    targets = {
        'speed': 12 * torch.rand(batch),
        'value': torch.randn(batch),
        'feature': torch.randn(batch, 256),
        'waypoints': torch.randn(batch, steps, 2),
        'grid_feature': [torch.randn(batch, *shape) for shape in maps],
        'future_grid_feature': torch.randn(batch, steps, *maps[0]),
        'depth': 1 + 30 * torch.rand(batch, 1, 16, 32),
        'seg': torch.randint(0, 12, (batch, 1, 16, 32)),
    }
    for parameter in ('alpha', 'beta'):
        targets[f'action_{parameter}'] = positive(batch, 2)
        targets[f'future_action_{parameter}'] = positive(batch, steps - 1, 2)
    return predictions, targets


def test_every_weight_of_the_config_is_used():  # M31
    predictions, targets = random_outputs()
    weights = [
        (loss, key)
        for loss in load_config(str(CONFIG)).model.losses.values()
        for key in loss
        if 'weight' in key
    ]
    assert len(weights) > 10
    for loss, key in weights:
        doubled = tuple(2 * w for w in loss[key]) if key == 'weights' else 2 * loss[key]
        before, after = (
            MODELS.build(config)(predictions, targets) for config in (loss, {**loss, key: doubled})
        )
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert moved, (loss['type'], key)
        for name in moved:
            assert torch.allclose(after[name], 2 * before[name])
