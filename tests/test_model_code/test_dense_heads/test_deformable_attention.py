import pytest
import torch
from helpers.deformable_attention import multi_scale_deformable_attention

from thinktwice.model_code.dense_heads.deformable_attention import DeformableAttention
from thinktwice.model_code.dense_heads.image_tokens import ImageTokens

SIZES = [(5, 7), (3, 4)]


def trained_attention(channels=8, heads=2, points=3):
    """An attention whose offsets and weights depend on the query, as after some training."""
    attention = DeformableAttention(channels, len(SIZES), heads, points)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def arguments(B=2, N=3, M=5, channels=8):
    maps = [torch.randn(B, N, channels, *size) for size in SIZES]
    return {
        'queries': torch.randn(B, N, M, channels),
        'references': torch.rand(B, N, M, 2),
        'maps': maps,
        'camera_embedding': torch.randn(N, channels),
        'level_embedding': torch.randn(len(SIZES), channels),
    }


def attend(attention, queries, references, maps, camera_embedding, level_embedding):
    B, N, M, C = queries.shape
    cameras = torch.arange(B * N).repeat_interleave(M)
    tokens = ImageTokens.from_levels(maps)
    attended = attention(
        queries.view(-1, C), references.view(-1, 2), cameras, tokens, camera_embedding, level_embedding
    )
    return attended.view(B, N, M, C)


def test_equals_projecting_every_token_first() -> None:
    """The method's order of steps: embed and project all tokens, then sample each head's maps."""
    attention, given = trained_attention(), arguments()
    B, N, M, C = given['queries'].shape
    values = []
    for level, image in enumerate(given['maps']):
        tokens = (
            image
            + given['camera_embedding'][:, :, None, None]
            + given['level_embedding'][level, :, None, None]
        )
        value = attention.value_proj(tokens.permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)
        values.append(value.reshape(B * N, 2, C // 2, *SIZES[level]))
    queries = given['queries'].flatten(0, 1)
    offsets = attention.sampling_offsets(queries).view(B * N, M, 2, len(SIZES), 3, 2)
    widths_heights = torch.tensor([(w, h) for h, w in SIZES])[:, None]
    locations = given['references'].flatten(0, 1)[:, :, None, None, None] + offsets / widths_heights
    weights = attention.attention_weights(queries).view(B * N, M, 2, -1).softmax(-1)
    expected = multi_scale_deformable_attention(values, locations, weights.view(locations.shape[:-1]))
    torch.testing.assert_close(attend(attention, **given), expected.view(B, N, M, C), atol=1e-5, rtol=1e-5)


def test_starts_from_rings_and_equal_weights() -> None:
    attention = DeformableAttention(16, num_levels=2, num_heads=8, num_points=3)
    bias = attention.sampling_offsets.bias.view(8, 2, 3, 2)
    right_down = {0: (1, 0), 1: (1, 1), 2: (0, 1), 3: (-1, 1), 4: (-1, 0), 6: (0, -1)}
    for head, direction in right_down.items():
        for point in range(3):
            expected = torch.tensor(direction).float() * (point + 1)
            for level in range(2):
                torch.testing.assert_close(bias[head, level, point], expected, atol=1e-5, rtol=0)
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any() and not attention.attention_weights.bias.any()
    assert attention.value_proj.weight.abs().max() <= (6 / 32) ** 0.5  # Xavier uniform


def test_gradients_reach_every_parameter() -> None:
    attention, given = trained_attention(), arguments()
    attend(attention, **given).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in attention.parameters())


def test_autocast_keeps_full_precision() -> None:
    attention, given = trained_attention(), arguments()
    expected = attend(attention, **given)
    with torch.autocast('cpu', torch.bfloat16):
        result = attend(attention, **given)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_channels_that_do_not_divide_into_heads_are_refused() -> None:
    with pytest.raises(ValueError, match='channels=10 must be a multiple of num_heads=4'):
        DeformableAttention(10, 1, num_heads=4)
