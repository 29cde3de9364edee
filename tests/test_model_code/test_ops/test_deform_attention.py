import math

import torch
from helpers.deformable_attention import flat_maps
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

SIZES = [(5, 7), (3, 4), (1, 2)]


def inputs(B: int = 2, Q: int = 4, heads: int = 2, channels: int = 3, points: int = 2):
    values = [torch.randn(B, heads, channels, *size, dtype=torch.double) for size in SIZES]
    # some locations lie outside the maps
    locations = torch.rand(B, Q, heads, len(SIZES), points, 2, dtype=torch.double) * 1.6 - 0.3
    weights = torch.rand(B, Q, heads, len(SIZES) * points, dtype=torch.double).softmax(-1)
    return values, locations, weights.view(B, Q, heads, len(SIZES), points)


def bilinear(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    value = torch.zeros(image.shape[0], dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return value


def attend(values, locations, weights):
    """mmcv's autograd function, which calls the portable operators."""
    table, sizes = flat_maps(values)
    starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
    return MultiScaleDeformableAttnFunction.apply(table.contiguous(), sizes, starts, locations, weights, 64)


def test_equals_a_loop_over_queries_heads_levels_and_points() -> None:
    values, locations, weights = inputs()
    output = attend(values, locations, weights)
    B, Q, heads, levels, points, _ = locations.shape
    expected = torch.zeros(B, Q, heads, 3, dtype=torch.double)
    for b, q, head, level, point in torch.cartesian_prod(
        *map(torch.arange, (B, Q, heads, levels, points))
    ).tolist():
        height, width = SIZES[level]
        x, y = locations[b, q, head, level, point].tolist()
        sample = bilinear(values[level][b, head], y * height - 0.5, x * width - 0.5)
        expected[b, q, head] += weights[b, q, head, level, point] * sample
    torch.testing.assert_close(output, expected.flatten(2))


def test_gradients_equal_finite_differences() -> None:
    values, locations, weights = inputs(B=1, Q=2, heads=2, channels=2, points=1)
    leaves = [value.requires_grad_() for value in values]
    leaves += [locations.requires_grad_(), weights.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *args: attend(args[:3], args[3], args[4]), leaves)


def test_no_query_gives_an_empty_result() -> None:
    values, locations, weights = inputs()
    output = attend(values, locations[:, :0], weights[:, :0])
    assert output.shape == (2, 0, 6)
