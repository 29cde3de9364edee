import math

import pytest
import torch
import torch.nn.functional as F

from thinktwice.errors import ConfigError
from thinktwice.model_code.losses import SegmentationLoss
from thinktwice.model_code.losses.segmentation import focal_cross_entropy, nearest_labels


def seg_loss(**options):
    return SegmentationLoss(**{'weight': 1.0, 'alpha': 0.5, 'gamma': 2.0, 'ignore_index': 255, **options})


def test_every_pixel_has_its_own_focal_factor() -> None:
    probabilities = [0.9, 0.6, 0.2]  # of the labeled class of three pixels
    logits = torch.tensor([probabilities, [1 - p for p in probabilities]]).log().view(1, 2, 1, 3)
    loss = focal_cross_entropy(logits, torch.zeros(1, 1, 3, dtype=torch.long), 0.5, 2.0, 255)
    expected = sum(0.5 * (1 - p) ** 2 * -math.log(p) for p in probabilities) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_without_focus_it_is_the_cross_entropy_over_labeled_pixels() -> None:
    logits, labels = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 4, (2, 3, 10, 12)).to(torch.uint8)
    labels[0, 0, :6] = 255
    loss = seg_loss(weight=10, alpha=1.0, gamma=0.0)({'seg_logits': logits}, {'seg': labels})['seg_loss']
    small = labels[:, :, ::2, ::2].long().flatten(0, 1)
    torch.testing.assert_close(loss, 10 * F.cross_entropy(logits.flatten(0, 1), small, ignore_index=255))


def test_the_pixels_of_a_class_are_weighted() -> None:
    logits, labels = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 4, (2, 3, 5, 6))
    labels[0, 0, :2] = 255
    weights = [1.0, 3.0, 0.0, 0.5]
    loss = seg_loss(class_weights=weights)({'seg_logits': logits}, {'seg': labels})['seg_loss']
    probabilities = logits.softmax(2)
    total, count = 0.0, 0
    for b, n, y, x in (labels != 255).nonzero().tolist():
        label = int(labels[b, n, y, x])
        p = float(probabilities[b, n, label, y, x])
        total += weights[label] * 0.5 * (1 - p) ** 2 * -math.log(p)
        count += 1
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_ignored_pixels_change_nothing_and_all_ignored_is_zero() -> None:
    logits = torch.randn(1, 2, 4, 5, 6, requires_grad=True)
    labels = torch.randint(0, 4, (1, 2, 5, 6))
    labels[0, 1, 2:] = 255
    before = seg_loss()({'seg_logits': logits}, {'seg': labels})['seg_loss']
    other = logits.detach().clone()
    other[0, 1, :, 2:] += 7
    torch.testing.assert_close(
        seg_loss()({'seg_logits': other}, {'seg': labels})['seg_loss'], before.detach()
    )
    nothing = seg_loss()({'seg_logits': logits}, {'seg': torch.full_like(labels, 255)})['seg_loss']
    nothing.backward()
    assert nothing == 0 and logits.grad.isfinite().all()


def test_a_batch_is_the_mean_of_its_halves_weighted_by_labeled_pixels() -> None:
    logits, labels = torch.randn(2, 1, 4, 5, 6), torch.randint(0, 4, (2, 1, 5, 6))
    labels[0, 0, :4] = 255
    whole = seg_loss()({'seg_logits': logits}, {'seg': labels})['seg_loss']
    halves = [
        seg_loss()({'seg_logits': logits[i : i + 1]}, {'seg': labels[i : i + 1]})['seg_loss'] for i in (0, 1)
    ]
    torch.testing.assert_close(whole, (halves[0] * 6 + halves[1] * 30) / 36)


@pytest.mark.parametrize('size', [(4, 6), (3, 5), (8, 12), (16, 24)])
def test_labels_are_resampled_to_the_nearest_never_mixed(size) -> None:
    labels = torch.randint(0, 200, (2, 8, 12)).to(torch.uint8)
    expected = F.interpolate(labels[:, None].float(), size, mode='nearest')[:, 0].to(torch.uint8)
    assert (nearest_labels(labels, size) == expected).all()


def test_the_size_is_the_one_of_each_call() -> None:
    loss = seg_loss()
    for height in (8, 4):
        logits = torch.randn(1, 1, 4, height, 6)
        assert loss({'seg_logits': logits}, {'seg': torch.zeros(1, 1, 2 * height, 12)})['seg_loss'].isfinite()


def test_a_weight_is_needed_for_each_class() -> None:
    loss = seg_loss(class_weights=(1.0, 2.0))
    with pytest.raises(ConfigError, match='has 2 class_weights, but the segmentation head has 5 classes'):
        loss({'seg_logits': torch.rand(1, 1, 5, 2, 2)}, {'seg': torch.zeros(1, 1, 4, 4)})
