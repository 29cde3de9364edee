import pytest
import torch
from torch import nn

from thinktwice.model_code.backbones.single_value_batch_norm import (
    SingleValueBatchNorm1d,
    SingleValueBatchNorm2d,
)


def pair(kind, channels=4):
    ours, theirs = (
        (SingleValueBatchNorm1d(channels), nn.BatchNorm1d(channels))
        if kind == 1
        else (SingleValueBatchNorm2d(channels), nn.BatchNorm2d(channels))
    )
    theirs.running_mean.normal_()
    theirs.running_var.uniform_(0.5, 2)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize(('kind', 'shape'), [(1, (5, 4)), (1, (2, 4, 3)), (2, (1, 4, 3, 2))])
def test_larger_batches_are_normalized_as_by_torch(kind, shape):
    ours, theirs = pair(kind)
    x = torch.randn(shape)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize(('kind', 'shape'), [(1, (1, 4)), (1, (0, 4)), (2, (1, 4, 1, 1))])
def test_a_batch_without_statistics_uses_the_running_ones_and_leaves_them(kind, shape):
    ours, theirs = pair(kind)
    x = torch.randn(shape)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    assert torch.allclose(ours.train()(x), theirs.eval()(x), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_statistics_may_move_between_forward_and_backward():
    """A shared head sees one observed map, then several predicted ones, before the backward pass."""
    norm, evaluating = pair(1)
    evaluating.eval()
    single = torch.randn(1, 4)
    (expected,) = torch.autograd.grad(evaluating(single).sum(), evaluating.weight)
    first = norm(single).sum()
    norm(10 + torch.randn(6, 4))  # moves the running statistics in place
    (gradient,) = torch.autograd.grad(first, norm.weight)
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_an_empty_batch_leaves_a_gradient_of_zero():
    norm, _ = pair(1)
    norm(torch.randn(0, 4)).sum().backward()
    assert norm.weight.grad.abs().sum() == 0
    assert norm.bias.grad.abs().sum() == 0
