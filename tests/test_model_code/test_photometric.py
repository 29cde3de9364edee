import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from thinktwice.model_code import photometric
from thinktwice.model_code.photometric import (
    Draw,
    PhotometricAugmentation,
    PhotometricLimits,
    photometric_limits,
)

NO_CHANGE = {
    'probability': 1.0,
    'per_channel': 0.0,
    'blur_sigma': 0.0,
    'noise_std': 0.0,
    'dropout': 0.0,
    'add': 0.0,
    'multiply': (1.0, 1.0),
    'contrast': (1.0, 1.0),
}


def draw_with(seed=0, **limits):
    generator = torch.Generator().manual_seed(seed)
    return Draw(PhotometricLimits(**{**NO_CHANGE, **limits}), generator, generator)


def random_images(*shape):
    return torch.randint(0, 256, (*shape, 3, 32, 48), dtype=torch.uint8)


@pytest.mark.parametrize(
    ('iteration', 'probability', 'per_channel', 'blur', 'share', 'add', 'multiply', 'contrast'),
    [
        (0, 0.05, 0.0, 0.5, 0.0386, 10, (1, 1), (1, 1)),
        (100_000, 0.217, 0.033, 0.667, 0.0441, 13.3, (0.939, 1.417), (0.967, 1.033)),
        (300_000, 0.55, 0.1, 1.0, 0.0731, 20, (0.818, 2.25), (0.9, 1.1)),
    ],
)
def test_strength_follows_the_documented_schedule(
    iteration, probability, per_channel, blur, share, add, multiply, contrast
):
    limits = photometric_limits(iteration)
    assert limits.probability == pytest.approx(probability, abs=6e-4)
    assert limits.per_channel == pytest.approx(per_channel, abs=6e-4)
    assert limits.blur_sigma == pytest.approx(blur, abs=6e-4)
    assert limits.dropout == pytest.approx(share, abs=6e-5)
    assert limits.noise_std == pytest.approx(share * 255, abs=2e-2)
    assert limits.add == pytest.approx(add, abs=0.05)
    assert limits.multiply == pytest.approx(multiply, abs=6e-4)
    assert limits.contrast == pytest.approx(contrast, abs=6e-4)


def test_noise_is_visible_from_the_first_iteration_and_unbiased():
    gray = torch.full((1, 3, 64, 64), 124.0)
    limits = photometric_limits(0)
    spreads = []
    for seed in range(20):
        noisy = photometric.add_noise(gray, draw_with(seed, noise_std=limits.noise_std)).round()
        spreads.append(noisy.std().item())
        assert noisy.mean().item() == pytest.approx(124, abs=0.5)
    assert max(spreads) > 5  # gray levels; the standard deviation is uniform from 0 to 9.8
    assert np.mean(spreads) == pytest.approx(limits.noise_std / 2, rel=0.4)


def test_blur_is_scipys_gaussian():
    img = random_images(1).float()
    draw = draw_with(blur_sigma=2.0)
    sigma = draw_with(blur_sigma=2.0).uniform(0, 2.0).item()
    expected = gaussian_filter(
        img[0].numpy(), (0, sigma, sigma), mode='mirror', radius=(0,) + (round(3 * sigma),) * 2
    )
    assert photometric.blur(img, draw)[0].numpy() == pytest.approx(expected, abs=1e-3)


def test_multiply_contrast_and_gray_are_the_plain_formulas():
    img = random_images(1).float()
    assert torch.allclose(photometric.multiply(img, draw_with(multiply=(2.0, 2.0))), img * 2)
    contrast = photometric.change_contrast(img, draw_with(contrast=(0.5, 0.5)))
    assert torch.allclose(contrast, 127 + 0.5 * (img - 127))
    alpha = draw_with().uniform(0, 1)
    gray = 0.299 * img[:, :1] + 0.587 * img[:, 1:2] + 0.114 * img[:, 2:]
    assert torch.allclose(
        photometric.blend_gray(img, draw_with()), (1 - alpha) * img + alpha * gray, atol=1e-3
    )


def test_shift_is_shared_by_the_channels_or_one_each():
    img = torch.full((2, 3, 4, 4), 100.0)
    shared = photometric.add(img, draw_with(add=10.0)) - img
    assert torch.unique(shared).numel() == 1
    apart = photometric.add(img, draw_with(add=10.0, per_channel=1.0)) - img
    assert torch.unique(apart).numel() == 3
    assert apart.abs().max() <= 10


@pytest.mark.parametrize('operation', [photometric.drop_pixels, photometric.drop_rectangles])
def test_dropout_blackens_half_the_limit_on_average(operation):
    img = torch.full((1, 3, 64, 128), 200.0)
    shares = [(operation(img, draw_with(seed, dropout=0.4)) == 0).float().mean().item() for seed in range(60)]
    assert np.mean(shares) == pytest.approx(0.2, abs=0.06)
    assert max(shares) < 0.6


def test_dropped_rectangles_are_coarse_and_dropped_pixels_are_not():
    img = torch.full((1, 3, 64, 128), 200.0)
    rectangles = photometric.drop_rectangles(img, draw_with(dropout=0.5))[0, 0]
    pixels = photometric.drop_pixels(img, draw_with(dropout=0.5))[0, 0]
    edges = [(x[:, 1:] != x[:, :-1]).sum().item() for x in (rectangles, pixels)]
    assert edges[0] < edges[1] / 4


@pytest.mark.parametrize('iteration', [0, 100_000, 1_000_000])
def test_result_is_whole_gray_levels_of_the_same_shape(iteration):
    img = random_images(2, 3)
    for seed in range(10):
        out = PhotometricAugmentation()(img, seed, iteration)
        assert out.shape == img.shape
        assert out.dtype == torch.float32
        assert torch.equal(out, out.round())
        assert 0 <= out.min() <= out.max() <= 255


def test_frames_and_cameras_of_a_sample_share_parameters_and_masks():
    img = random_images(1).expand(2, 3, 3, 32, 48)
    for seed in range(20):
        out = PhotometricAugmentation()(img, seed, 400_000)
        assert torch.equal(out, out[:1, :1].expand_as(out))


def test_seed_and_iteration_alone_decide():
    img = random_images(2, 2)
    augment = PhotometricAugmentation()
    torch.manual_seed(1)
    first = augment(img, 7, 500_000)
    torch.manual_seed(2)
    assert torch.equal(first, augment(img, 7, 500_000))
    assert not torch.equal(first, augment(img, 8, 500_000))
    assert not torch.equal(first, augment(img, 7, 600_000))


def test_untouched_images_stay_untouched_and_the_input_is_not_changed():
    img = random_images(1, 1)
    original = img.clone()
    untouched = 0
    for seed in range(30):
        untouched += int(torch.equal(PhotometricAugmentation()(img, seed, 0), img.float()))
    assert torch.equal(img, original)
    assert 12 <= untouched <= 29  # each of eight operations has 5%: about two thirds stay
