import pytest
import torch
from helpers.small_encoders import parameters_without_gradient

from thinktwice.model_code.backbones import (
    CameraAwareDepthNet,
    SegmentationFeatureBranch,
    UNetSegmentationHead,
)
from thinktwice.model_code.backbones.aspp import ASPP


def depth_net(**overrides):
    arguments = {'in_channels': 6, 'mid_channels': 8, 'context_channels': 5, 'num_bins': 12, **overrides}
    return CameraAwareDepthNet(**{'aspp_dilations': (1, 2), 'num_residual_blocks': 2, **arguments})


def test_depth_and_context_depend_on_the_camera():
    net = depth_net().eval()
    features, vector = torch.randn(3, 6, 4, 7), torch.randn(3, 22)
    logits, context = net(features, vector)
    assert logits.shape == (3, 12, 4, 7)
    assert context.shape == (3, 5, 4, 7)
    other_logits, other_context = net(features, vector + 1)
    assert (other_logits - logits).abs().max() > 1e-6
    assert (other_context - context).abs().max() > 1e-6


def test_gates_are_the_written_out_formula():
    net = depth_net().eval()
    features, vector = torch.randn(2, 6, 3, 3), torch.randn(2, 22)
    x = net.reduce_conv(features)
    gate = net.context_gate
    v = vector / torch.sqrt(torch.tensor(1 + 1e-5))  # fresh running statistics: mean 0, variance 1
    seed = torch.relu(v @ gate.mlp[0].weight.T + gate.mlp[0].bias) @ gate.mlp[2].weight.T + gate.mlp[2].bias
    reduce, expand = gate.squeeze_excite[0], gate.squeeze_excite[2]
    hidden = torch.relu(seed @ reduce.weight[:, :, 0, 0].T + reduce.bias)
    weights = torch.sigmoid(hidden @ expand.weight[:, :, 0, 0].T + expand.bias)
    expected = net.context_conv(x * weights[:, :, None, None])
    assert torch.allclose(net(features, vector)[1], expected, atol=1e-5)


def test_depth_net_trains_on_a_single_camera_and_reaches_every_parameter():
    net = depth_net().train()
    logits, context = net(torch.randn(1, 6, 6, 8), torch.randn(1, 22))
    (logits.square().mean() + context.square().mean()).backward()
    assert parameters_without_gradient(net) == []


def test_pyramid_starts_from_a_kaiming_normal_and_drops_only_in_training():
    pyramid = ASPP(32, (1, 2, 3), dropout=0.5)
    pyramid.init_weights()
    weight = pyramid.branches[1][0].weight
    assert weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    x = torch.randn(2, 32, 5, 5)
    assert torch.equal(pyramid.eval()(x), pyramid(x))
    dropped = (pyramid.train()(x) == 0).float().mean()
    assert dropped > (pyramid.eval()(x) == 0).float().mean() + 0.1


def test_segmentation_doubles_the_finest_level():
    head = UNetSegmentationHead((4, 6, 8), up_channels=(5, 7), head_channels=3, num_classes=9)
    levels = [torch.randn(2, 4, 16, 24), torch.randn(2, 6, 8, 12), torch.randn(2, 8, 4, 6)]
    out = head(levels)
    assert out.shape == (2, 9, 32, 48)
    out.square().mean().backward()
    assert parameters_without_gradient(head) == []


def test_segmentation_refuses_levels_that_do_not_fit():
    with pytest.raises(ValueError, match='up_channels'):
        UNetSegmentationHead((4, 4), up_channels=(4, 4), head_channels=3, num_classes=9)
    head = UNetSegmentationHead((4, 4), up_channels=(4,), head_channels=3, num_classes=9)
    with pytest.raises(ValueError, match='coarsest stride'):
        head([torch.randn(1, 4, 7, 8), torch.randn(1, 4, 4, 4)])


def test_segmentation_branch_stops_the_gradient():
    branch = SegmentationFeatureBranch(5, units=((4, 1, 1), (6, 3, 2)))
    logits = torch.randn(2, 5, 8, 12, requires_grad=True)
    out = branch(logits)
    assert out.shape == (2, 6, 4, 6)
    out.sum().backward()
    assert logits.grad is None
