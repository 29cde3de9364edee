import math

import pytest
import torch
import torch.nn.functional as F

from thinktwice.errors import ConfigError
from thinktwice.model_code.losses import DepthLoss
from thinktwice.model_code.losses.depth import depth_bins, patch_depth

BOUND = (1.0, 41.0, 0.5)


def depth_map(B=1, N=2, h=3, w=4, patch=4):
    depth = 45 * torch.rand(B, N, h * patch, w * patch)
    depth[torch.rand_like(depth) < 0.3] = 0
    depth[0, 0, :patch, :patch] = 0  # a patch without any depth
    depth[0, 0, patch, 0] = 0.7  # one with the own car in it
    return depth


def bin_of_patch(patch):
    """The label of one patch by the definition, None without one."""
    known = patch[patch > 0]
    if not len(known) or not 1.0 <= known.min() < 41.0:
        return None
    return math.floor((known.min().item() - 1.0) / 0.5)


def loss_by_loops(logits, depth, patch, element):
    total, count = 0.0, 0
    B, N, _, h, w = logits.shape
    for b, n, i, j in torch.cartesian_prod(*map(torch.arange, (B, N, h, w))).tolist():
        label = bin_of_patch(depth[b, n, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch])
        if label is not None:
            total, count = total + element(logits[b, n, :, i, j], label), count + 1
    return total / count


def test_sigmoid_objective_sums_the_bins_of_each_labeled_patch() -> None:
    logits, depth = torch.randn(1, 2, 80, 3, 4), depth_map() * 0.3

    def element(values, label):
        return F.binary_cross_entropy_with_logits(
            values, F.one_hot(torch.tensor(label), 80).float(), reduction='sum'
        )

    loss = DepthLoss(weight=3.0, depth_bounds=BOUND)({'depth_logits': logits}, {'depth': depth})['depth_loss']
    torch.testing.assert_close(loss, 3 * loss_by_loops(logits, depth, 4, element))


def test_softmax_objective_is_the_cross_entropy_of_the_distribution() -> None:
    logits, depth = torch.randn(1, 2, 80, 3, 4), depth_map() * 0.3
    loss = DepthLoss(1.0, BOUND, objective='softmax')({'depth_logits': logits}, {'depth': depth})[
        'depth_loss'
    ]
    expected = loss_by_loops(logits, depth, 4, lambda values, label: -values.log_softmax(0)[label])
    torch.testing.assert_close(loss, expected)


def test_bins_are_half_open_and_nothing_outside_has_one() -> None:
    depth = torch.tensor([0.0, 0.5, 0.99, 1.0, 1.49, 1.5, 40.99, 41.0, 60.0, 1e5])
    assert depth_bins(depth, BOUND).tolist() == [-1, -1, -1, 0, 0, 1, 79, -1, -1, -1]
    assert depth_bins(torch.tensor([2.0, 9.9, 10.0]), (2.0, 10.0, 2.0)).tolist() == [0, 3, -1]


def test_patches_take_the_nearest_surface_and_skip_unknown_pixels() -> None:
    depth = torch.tensor([[[0.0, 5.0, 7.0, 3.0], [9.0, 4.0, 0.0, 0.0]]])
    assert patch_depth(depth, (1, 2), 'min').tolist() == [[[4.0, 3.0]]]
    assert patch_depth(depth, (1, 2), 'nearest')[0, 0, 0] == 4.0  # the middle pixel, row 1 and column 1
    assert patch_depth(depth, (1, 2), 'nearest')[0, 0, 1] > 1e4  # the middle pixel is unknown


def test_no_label_gives_zero_and_finite_gradients() -> None:
    logits = torch.randn(1, 1, 80, 2, 2, requires_grad=True)
    for objective in ('sigmoid', 'softmax'):
        loss = DepthLoss(1.0, BOUND, objective=objective)
        value = loss({'depth_logits': logits}, {'depth': torch.zeros(1, 1, 8, 8)})['depth_loss']
        value.backward()
        assert value == 0 and not logits.grad.any()


def test_a_batch_is_the_mean_of_its_halves_weighted_by_labeled_patches() -> None:
    logits, depth = torch.randn(2, 1, 80, 3, 4), 1 + 30 * torch.rand(2, 1, 12, 16)
    depth[0, :, 4:] = 0  # 4 labeled patches against 12
    loss = DepthLoss(1.0, BOUND)
    whole = loss({'depth_logits': logits}, {'depth': depth})['depth_loss']
    halves = [
        loss({'depth_logits': logits[i : i + 1]}, {'depth': depth[i : i + 1]})['depth_loss'] for i in (0, 1)
    ]
    torch.testing.assert_close(whole, (halves[0] * 4 + halves[1] * 12) / 16)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="pooling='mean' must be"):
        DepthLoss(1.0, BOUND, pooling='mean')
    with pytest.raises(ValueError, match="objective='l1' must be"):
        DepthLoss(1.0, BOUND, objective='l1')
    with pytest.raises(ValueError, match='9x8 pixels do not divide into 2x2 patches'):
        patch_depth(torch.zeros(1, 9, 8), (2, 2), 'min')


def test_the_bins_are_those_of_the_logits() -> None:
    loss = DepthLoss(weight=1.0, depth_bounds=(1.0, 5.0, 0.5))
    with pytest.raises(ConfigError, match='are 8 bins, but the camera encoder predicts 9'):
        loss({'depth_logits': torch.rand(1, 2, 9, 3, 4)}, {'depth': depth_map()})
