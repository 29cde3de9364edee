"""Rows M9, M12, M21, M25, M34, Q11, Q12 of docs/reference_quirks.md.

M10 (two resizes that share nothing) is held by test_losses/test_segmentation, M11 (a gradient for
every parameter) by test_encoder_decoder_framework, M30 to M33 by the configs and their tests.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from thinktwice.model_code.backbones import BEVFlattenHead
from thinktwice.model_code.dense_heads import TeacherInputs, ThinkTwiceDecoder
from thinktwice.model_code.losses import ActionLoss, DepthLoss, SegmentationLoss, ValueLoss
from thinktwice.model_code.photometric import PhotometricAugmentation
from thinktwice.model_code.reference import ReferencePhotometricAugmentation, ReferenceSegmentationLoss

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
    loss = DepthLoss(weight=1.0, depth_bound=(1.0, 5.0, 1.0), objective=objective)
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
    grey = torch.full((10_000,), 100.0)
    changed = bool(((grey + std * torch.randn(10_000)).round() != grey).any())
    assert changed == corrected
