import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

import thinktwice.model_code  # noqa: F401  (puts the portable operators into place)
from thinktwice.model_code.ops import DeformConv2dPack


def bilinear(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """(C,) value of a (C, H, W) image at a point, zero outside."""
    value = torch.zeros(image.shape[0], dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return value


def deformed_by_hand(image: torch.Tensor, offset: torch.Tensor, layer: DeformConv2dPack) -> torch.Tensor:
    """Loop over pixels and taps; offsets of a tap are (dy, dx), taps row by row."""
    weight, groups = layer.weight, image.shape[1] // layer.weight.shape[1]
    output = torch.zeros(image.shape[0], weight.shape[0], *offset.shape[2:], dtype=image.dtype)
    for b in range(len(image)):
        for i in range(offset.shape[2]):
            for j in range(offset.shape[3]):
                for tap in range(9):
                    dy, dx = offset[b, 2 * tap : 2 * tap + 2, i, j].tolist()
                    y = i * layer.stride[0] - layer.padding[0] + (tap // 3) * layer.dilation[0] + dy
                    x = j * layer.stride[1] - layer.padding[1] + (tap % 3) * layer.dilation[1] + dx
                    sample = bilinear(image[b], y, x)
                    for group, block in enumerate(sample.chunk(groups)):
                        rows = slice(
                            group * weight.shape[0] // groups, (group + 1) * weight.shape[0] // groups
                        )
                        output[b, rows, i, j] += weight[rows, :, tap // 3, tap % 3] @ block
    return output


@pytest.mark.parametrize(('stride', 'dilation', 'groups'), [(1, 1, 4), (2, 1, 1), (1, 2, 2)])
def test_equals_a_loop_over_pixels_and_taps(stride: int, dilation: int, groups: int) -> None:
    layer = DeformConv2dPack(4, 8, 3, stride=stride, padding=1, dilation=dilation, groups=groups).double()
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    torch.nn.init.normal_(layer.conv_offset.bias, std=0.5)
    image = torch.randn(2, 4, 7, 6, dtype=torch.double)
    with torch.no_grad():
        expected = deformed_by_hand(image, layer.conv_offset(image), layer)
        torch.testing.assert_close(layer(image), expected)


def test_gradients_equal_finite_differences() -> None:
    layer = DeformConv2dPack(2, 2, 3, groups=2).double()
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.2)
    # offsets away from whole pixels, where bilinear sampling has a kink
    torch.nn.init.uniform_(layer.conv_offset.bias, 0.2, 0.4)
    image = 0.1 * torch.randn(1, 2, 4, 4, dtype=torch.double)
    parameters = list(layer.parameters())
    leaves = [image.requires_grad_(), *(parameter.requires_grad_() for parameter in parameters)]
    assert torch.autograd.gradcheck(lambda *_: layer(image), leaves)


def test_starts_as_an_ordinary_convolution() -> None:
    layer = DeformConv2dPack(8, 12, 3, padding=1, groups=4)
    image = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(layer(image), F.conv2d(image, layer.weight, padding=1, groups=4))


def test_names_and_shapes_of_parameters() -> None:
    shapes = {
        name: tuple(value.shape)
        for name, value in DeformConv2dPack(512, 512, 3, groups=4).state_dict().items()
    }
    assert shapes == {
        'weight': (512, 128, 3, 3),
        'conv_offset.weight': (18, 512, 3, 3),
        'conv_offset.bias': (18,),
    }


def test_channels_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(ValueError, match='out_channels=10 cannot be divided into 4 groups'):
        DeformConv2dPack(8, 10, groups=4)


@pytest.mark.parametrize('deform_groups', [1, 2])
def test_mmcv_own_layer_runs_on_the_stand_in(deform_groups: int) -> None:
    mmcv_ops = pytest.importorskip('mmcv.ops')
    theirs = mmcv_ops.DeformConv2dPack(4, 6, 3, stride=2, padding=1, groups=2, deform_groups=deform_groups)
    ours = DeformConv2dPack(4, 6, 3, stride=2, padding=1, groups=2, deform_groups=deform_groups)
    torch.nn.init.normal_(theirs.conv_offset.weight, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 4, 9, 7)
    results = []
    for layer in (ours, theirs):
        leaf = image.clone().requires_grad_()
        output = layer(leaf)
        output.square().sum().backward()
        results.append([output, leaf.grad, *(parameter.grad for parameter in layer.parameters())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.slow
def test_a_backbone_of_mmdet_trains_with_deformable_stages() -> None:
    from mmdet.registry import MODELS

    dcn = {'type': 'DCN', 'deform_groups': 1, 'fallback_on_stride': False}
    backbone = MODELS.build(
        {
            'type': 'ResNet',
            'depth': 50,
            'base_channels': 8,
            'dcn': dcn,
            'stage_with_dcn': (False, True, True, True),
        }
    )
    maps = backbone(torch.randn(2, 3, 64, 96))
    sum(level.square().mean() for level in maps).backward()
    offsets = [p for name, p in backbone.named_parameters() if 'conv_offset' in name]
    assert len(offsets) == 2 * (4 + 6 + 3)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in offsets)


def test_nan_offset_reaches_the_output_and_does_not_crash() -> None:
    layer = DeformConv2dPack(4, 8, 3)
    image = torch.randn(2, 4, 7, 6)
    expected = layer(image).detach()
    offset = torch.zeros(2, 18, 7, 6)
    offset[1, 5, 2, 3] = torch.nan
    layer.conv_offset.forward = lambda _: offset
    output = layer(image.requires_grad_())
    assert output[1, :, 2, 3].isnan().all()
    others = torch.ones(2, 1, 7, 6, dtype=torch.bool)
    others[1, :, 2, 3] = False
    torch.testing.assert_close(output.masked_select(others), expected.masked_select(others))
    output.sum().backward()


@pytest.mark.parametrize('offset', [torch.inf, -torch.inf, 1e30])
def test_offset_beyond_the_image_samples_zeros(offset: float) -> None:
    layer = DeformConv2dPack(4, 8, 3)
    layer.conv_offset.bias.data.fill_(offset)
    assert torch.equal(layer(torch.randn(1, 4, 5, 5)), torch.zeros(1, 8, 5, 5))


@pytest.mark.parametrize('offset', [0.0, 0.3])
def test_output_and_gradients_equal_those_of_torchvision(offset: float) -> None:
    # at offset 0, where training starts, all samples lie on the kinks between pixels
    layer = DeformConv2dPack(4, 6, 3, stride=2, padding=1, groups=2)
    torch.nn.init.constant_(layer.conv_offset.bias, offset)
    image = torch.randn(2, 4, 7, 6)
    results = []
    for ours in (True, False):
        leaf = image.clone().requires_grad_()
        shifts = layer.conv_offset(leaf)
        output = layer(leaf) if ours else deform_conv2d(leaf, shifts, layer.weight, None, 2, 1)
        layer.zero_grad()
        output.square().sum().backward()
        results.append([output, leaf.grad, *(parameter.grad for parameter in layer.parameters())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.cuda
def test_cuda_equals_cpu() -> None:
    layer = DeformConv2dPack(4, 8, 3, groups=2).double()
    torch.nn.init.normal_(layer.conv_offset.bias, std=0.5)
    image, results = torch.randn(2, 4, 7, 6, dtype=torch.double), []
    for device in ('cpu', 'cuda'):
        leaf = image.to(device).requires_grad_()
        output = layer.to(device)(leaf)
        gradients = torch.autograd.grad(output.square().sum(), [leaf, *layer.parameters()])
        results.append([value.cpu() for value in (output, *gradients)])
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda, cpu)
