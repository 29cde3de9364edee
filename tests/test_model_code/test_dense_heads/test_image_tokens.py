import torch
import torch.nn.functional as F

from thinktwice.model_code.dense_heads.image_tokens import ImageTokens

SIZES = [(5, 7), (3, 4), (1, 2)]


def levels(B=2, N=3, C=4):
    return [torch.randn(B, N, C, *size, dtype=torch.double) for size in SIZES]


def cameras(B=2, N=3):
    """Camera of each query of shape (B, N, queries)."""
    return torch.arange(B * N).view(B, N, 1)


def anywhere(*shape):
    """Locations in and around the image."""
    return torch.rand(*shape, 2, dtype=torch.double) * 1.6 - 0.3


def test_samples_equal_grid_sample_of_each_level() -> None:
    maps = levels()
    tokens = ImageTokens.from_levels(maps)
    locations = anywhere(2, 3, 6, len(SIZES), 1)
    rows, weights = tokens.corners(locations, torch.ones_like(locations[..., 0]), cameras())
    sampled = tokens.gather(rows, weights)  # (B, N, 6, levels, C)
    for level, image in enumerate(maps):
        grid = (2 * locations[:, :, :, level] - 1).flatten(0, 1)  # (B * N, 6, 1, 2)
        expected = F.grid_sample(image.flatten(0, 1), grid, align_corners=False)
        torch.testing.assert_close(sampled[:, :, :, level].flatten(0, 1), expected[..., 0].transpose(1, 2))


def test_the_center_of_a_pixel_is_that_pixel_and_far_outside_is_nothing() -> None:
    maps = levels(B=1, N=1)
    tokens = ImageTokens.from_levels(maps)
    center = torch.tensor([(2 + 0.5) / 7, (1 + 0.5) / 5], dtype=torch.double)
    locations = torch.stack([center, torch.tensor([3.0, -9.0]).double()]).view(1, 1, 2, 1, 1, 2)
    rows, weights = tokens.corners(
        locations.expand(-1, -1, -1, 3, -1, -1), torch.ones(1, 1, 2, 3, 1).double(), cameras(1, 1)
    )
    sampled = tokens.gather(rows[:, :, :, 0], weights[:, :, :, 0])
    torch.testing.assert_close(sampled[0, 0, 0], maps[0][0, 0, :, 1, 2])
    assert (sampled[0, 0, 1] == 0).all()


def test_gradients_equal_finite_differences() -> None:
    maps = [image.requires_grad_() for image in levels(B=1, N=2, C=2)]
    locations = anywhere(1, 2, 2, len(SIZES), 2).requires_grad_()
    factors = torch.rand(1, 2, 2, len(SIZES), 2, dtype=torch.double, requires_grad=True)

    def sample(locations, factors, *maps):
        tokens = ImageTokens.from_levels(maps)
        rows, weights = tokens.corners(locations, factors, cameras(1, 2))
        return tokens.gather(rows.flatten(-2), weights.flatten(-2))

    assert torch.autograd.gradcheck(sample, (locations, factors, *maps))


def test_a_query_reads_its_own_sample_and_camera_alone() -> None:
    maps = levels()
    locations = anywhere(2, 3, 6, len(SIZES), 2)

    def sample():
        tokens = ImageTokens.from_levels(maps)
        return tokens.gather(*tokens.corners(locations, torch.ones_like(locations[..., 0]), cameras()))

    before = sample()
    for image in maps:
        image[1, 2] += 1
    changed = (sample() != before).flatten(2).any(-1)
    assert changed.tolist() == [[False, False, False], [False, False, True]]


def test_locations_that_are_not_finite_do_not_leave_the_table() -> None:
    tokens = ImageTokens.from_levels(levels())
    locations = anywhere(2, 3, 2, len(SIZES), 1)
    locations[:, :, 0] = float('nan')
    locations[:, :, 1] = float('inf')
    rows, _ = tokens.corners(locations, torch.ones_like(locations[..., 0]), cameras())
    assert rows.min() >= 0 and rows.max() < len(tokens.table)
