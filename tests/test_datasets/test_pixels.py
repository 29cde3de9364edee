"""Pixels: depth codes, class ids, lights, the warp and its matrices, against independent computation."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktwice.datasets.calibration import CameraCalibration, package_calibration
from thinktwice.datasets.labels import (
    compact_depth,
    decode_depth,
    read_class_ids,
    split_traffic_lights,
    training_id_table,
)
from thinktwice.datasets.pixels import (
    ImageAugmentation,
    center_augmentation,
    distort_points,
    draw_augmentation,
    pixel_map,
)
from thinktwice.datasets.storage import SampleReadError
from thinktwice.minitown.recording.frame_writer import encode_depth

RAW_SIZE, FINAL_SIZE = (900, 1600), (448, 896)


def front() -> CameraCalibration:
    return package_calibration().cameras[0]


# Depth.


def test_depth_codes_match_the_documented_values() -> None:
    codes = np.array([[12, 34, 1], [255, 255, 255], [184, 30, 5], [0, 0, 0]], np.uint8)
    depth = decode_depth(codes)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [4.425764, 1000, 20, 0], rtol=1e-6, atol=0)


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=20))
def test_depth_decoding_is_exact_to_single_precision(values: list[int]) -> None:
    codes = np.array([[v & 255, v >> 8 & 255, v >> 16] for v in values], np.uint8)
    exact = np.array(values, np.float64) / (256**3 - 1) * 1000
    np.testing.assert_allclose(decode_depth(codes), exact, rtol=2e-7)
    np.testing.assert_array_equal(encode_depth(exact), codes)


def test_the_depth_offset_moves_valid_depths_only() -> None:
    codes = encode_depth(np.array([0.0, 0.1, 10.0]))
    np.testing.assert_allclose(decode_depth(codes, -0.2), [0, 0, 9.8], atol=1e-4)


def test_compact_depth_stays_within_its_stated_error() -> None:
    depth = np.concatenate([np.linspace(0.01, 100, 5000), np.linspace(100, 1000, 1000)])
    compact = decode_depth(compact_depth(encode_depth(depth)))
    assert np.abs(compact - depth).max() <= 1 / 128 + 1e-4 and (compact > 0).all()
    assert decode_depth(compact_depth(np.zeros((1, 3), np.uint8))) == 0


# Classes.


def test_training_ids_count_from_one_and_end_below_the_heads_outputs() -> None:
    table = training_id_table()
    recorded = np.arange(23, dtype=np.uint8)
    expected = [0, 1, 0, 0, 2, 3, 4, 5, 6, 0, 7, 0, 8, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]
    np.testing.assert_array_equal(cv2.LUT(recorded, table), expected)
    assert cv2.LUT(np.array([24, 25, 255], np.uint8), table).tolist() == [10, 11, 255]


class OnePixel:
    """A reader of images with one class id."""

    def __init__(self, class_id: int) -> None:
        self.class_id = class_id

    def path(self, folder: str, frame: int) -> str:
        return 'file'

    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        return np.array([[self.class_id]], np.uint8)


@pytest.mark.parametrize(
    ('is_split', 'allowed', 'refused'), [(False, [22], [23, 255]), (True, [25, 255], [26])]
)
def test_unknown_class_ids_are_refused(is_split: bool, allowed: list[int], refused: list[int]) -> None:
    rig = replace(package_calibration(), lights_split=is_split)
    for class_id in allowed:
        assert read_class_ids(OnePixel(class_id), 'seg_front', 0, rig).tolist() == [[class_id]]
    for class_id in refused:
        with pytest.raises(SampleReadError, match=f'file: holds the class id {class_id}'):
            read_class_ids(OnePixel(class_id), 'seg_front', 0, rig)


def light_scene(color: tuple[int, int, int], lit: int, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """An image of CARLA's size with a light of size x size dark pixels, `lit` of them of a color."""
    class_ids = np.zeros((900, 1600), np.uint8)
    rgb = np.full((900, 1600, 3), 90, np.uint8)
    class_ids[10 : 10 + size, 20 : 20 + size] = 18
    rgb[10 : 10 + size, 20 : 20 + size] = (40, 38, 36)
    for i in range(lit):
        rgb[11 + i // 4, 21 + i % 4] = color
    return class_ids, rgb


@pytest.mark.parametrize(
    ('color', 'expected'),
    [
        ((255, 20, 60), 24),  # hue 175
        ((255, 0, 0), 24),  # hue 0: undecided in 2023
        ((255, 30, 20), 24),  # hue 1: undecided in 2023
        ((0, 255, 150), 25),  # hue 78
        ((255, 200, 0), 18),  # yellow
        ((20, 40, 255), 18),  # blue
    ],
)
def test_a_light_gets_the_color_that_is_lit(color: tuple[int, int, int], expected: int) -> None:
    class_ids, rgb = light_scene(color, lit=4)
    split = split_traffic_lights(class_ids, rgb)
    assert (split[class_ids == 18] == expected).all() and (split[class_ids != 18] == 0).all()
    assert (class_ids[10:16, 20:26] == 18).all(), 'the input is not changed'


def test_two_lit_pixels_decide_nothing_and_uniform_lights_neither() -> None:
    for class_ids, rgb in (light_scene((255, 0, 0), lit=2), light_scene((255, 0, 0), lit=0)):
        assert (split_traffic_lights(class_ids, rgb)[10:16, 20:26] == 18).all()
    class_ids, rgb = light_scene((0, 0, 0), lit=0)
    rgb[10:16, 20:26] = (255, 0, 0)
    assert (split_traffic_lights(class_ids, rgb)[10:16, 20:26] == 18).all()


def test_small_lights_become_background_and_diagonal_pixels_are_connected() -> None:
    class_ids, rgb = light_scene((255, 0, 0), lit=3, size=4)
    assert not split_traffic_lights(class_ids, rgb).any()
    class_ids[14:18, 24:28] = 18  # touches at a corner: 32 pixels together
    split = split_traffic_lights(class_ids, rgb)
    assert (split[class_ids == 18] == 24).all()


def test_the_counts_shrink_with_the_image() -> None:
    class_ids, rgb = light_scene((255, 0, 0), lit=1, size=2)
    rgb[10, 20] = (255, 0, 0)
    small, small_rgb = class_ids[:90, :160], rgb[:90, :160]  # 1% of the area: 3 pixels, one of them lit
    assert (split_traffic_lights(small, small_rgb)[small == 18] == 24).all()
    assert not split_traffic_lights(class_ids, rgb).any()
    small = small.copy()
    small[11, 20:22] = 0  # two pixels are left
    assert not split_traffic_lights(small, small_rgb).any()


def brute_force_split(class_ids: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """The documented rule, step by step on the whole image."""
    count, components = cv2.connectedComponents((class_ids == 18).astype(np.uint8), connectivity=8)
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV).astype(int)
    split = class_ids.copy()
    area = class_ids.size / (900 * 1600)
    for component in range(1, count):
        pixels = hsv[components == component]
        if len(pixels) < max(3, round(20 * area)):
            split[components == component] = 0
            continue
        low = int(1.1 * int(pixels[:, 1].mean()))
        counts = dict.fromkeys(('red', 'green'), 0)
        for h, s, v in pixels:
            if low <= s <= 255 and 140 <= v <= 255:
                counts['green'] += 70 <= h <= 100
                counts['red'] += 0 <= h <= 10 or 150 <= h <= 180
        if max(counts.values()) >= max(1, round(3 * area)):
            split[components == component] = 24 if counts['red'] >= counts['green'] else 25
    return split


def test_the_split_equals_the_rule_applied_to_whole_images() -> None:
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        class_ids = np.where(cv2.blur(generator.random((90, 120)), (7, 7)) > 0.56, 18, 7).astype(np.uint8)
        rgb = generator.integers(0, 256, (90, 120, 3)).astype(np.uint8)
        split = split_traffic_lights(class_ids, rgb)
        np.testing.assert_array_equal(split, brute_force_split(class_ids, rgb))
        seen |= set(np.unique(split))
    assert {0, 24, 25} <= seen


# Resize, crop and flip.


def test_the_exact_matrix_matches_the_documented_example() -> None:
    for flip, diagonal, shift, pixel in (
        (False, 0.6, -30.2, 442.754553),
        (True, -0.6, 925.2, 452.245447),
    ):
        augmentation = ImageAugmentation(RAW_SIZE, (540, 960), 92, 30, FINAL_SIZE, flip)
        matrix = augmentation.matrix()
        np.testing.assert_allclose(matrix[:2, 3], [shift, -92.2], atol=1e-9)
        np.testing.assert_allclose(np.diag(matrix), [diagonal, 0.6, 1, 1], atol=1e-12)
        mapped = matrix @ [788.25758876, 449.78972161, 1, 1]
        np.testing.assert_allclose(mapped[:2], [pixel, 177.673833], atol=1e-6)


def test_evaluation_crops_as_documented() -> None:
    augmentation = center_augmentation(RAW_SIZE, FINAL_SIZE)
    assert (augmentation.resized, augmentation.top, augmentation.left) == ((504, 896), 56, 0)
    np.testing.assert_allclose(augmentation.matrix()[:2, 3], [-0.22, -56.22], atol=1e-9)
    mapped = augmentation.matrix() @ [859.820871, 488.876950, 1, 1]
    np.testing.assert_allclose(mapped[:2], [481.280, 217.551], atol=1e-3)


def test_training_draws_cover_the_documented_ranges() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_augmentation(rng, RAW_SIZE, FINAL_SIZE) for _ in range(3000)]
    widths, heights = [d.resized[1] for d in draws], [d.resized[0] for d in draws]
    assert (min(widths), max(widths)) == (896, 1000) and (min(heights), max(heights)) == (504, 562)
    assert all(d.top == d.resized[0] - 448 and 0 <= d.left <= d.resized[1] - 896 for d in draws)
    assert 0.45 < np.mean([d.flip for d in draws]) < 0.55


@given(
    st.tuples(st.integers(20, 1000), st.integers(20, 1000)),
    st.tuples(st.integers(5, 500), st.integers(5, 500)),
    st.integers(0, 2**32),
)
def test_any_sizes_give_a_crop_inside_the_resized_image(
    size: tuple[int, int], final: tuple[int, int], seed: int
) -> None:
    for drawn in (
        draw_augmentation(np.random.default_rng(seed), size, final),
        center_augmentation(size, final),
    ):
        assert drawn.top >= 0 and drawn.top + final[0] == drawn.resized[0]
        assert 0 <= drawn.left <= drawn.resized[1] - final[1]


# The warp.


def test_the_lens_matches_the_documented_pixels() -> None:
    x, y = distort_points(front(), np.array([1000.0, 400.0]), np.array([300.0, 600.0]))
    np.testing.assert_allclose(x, [948.9346, 518.195], atol=1e-3)
    np.testing.assert_allclose(y, [304.6874, 598.956], atol=1e-3)


def test_the_lens_equals_the_calibration_library() -> None:
    camera = front()
    matrices = []
    for fx, fy, cx, cy in (camera.raw_intrinsics, camera.intrinsics):
        matrices.append(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
    expected = cv2.initUndistortRectifyMap(
        matrices[0], camera.distortion, None, matrices[1], (1600, 900), cv2.CV_32FC1
    )
    whole = ImageAugmentation(RAW_SIZE, RAW_SIZE, 0, 0, RAW_SIZE, flip=False)
    positions = pixel_map(camera, whole)
    np.testing.assert_allclose(positions.x, expected[0], atol=2e-3)
    np.testing.assert_allclose(positions.y, expected[1], atol=2e-3)
    outside = (positions.x < 0) | (positions.x > 1599) | (positions.y < 0) | (positions.y > 899)
    assert 0.04 < outside.mean() < 0.05


def blobs(positions: np.ndarray) -> np.ndarray:
    """A dark raw image with bright Gaussian spots, sigma 4 pixels, at sub-pixel positions."""
    v, u = np.mgrid[: RAW_SIZE[0], : RAW_SIZE[1]].astype(np.float32)
    image = np.zeros(RAW_SIZE, np.float32)
    for x, y in positions:
        image += 250 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 32)
    return np.repeat(image.round().astype(np.uint8)[..., None], 3, axis=2)


def centroid(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    column, row = np.rint(near).astype(int)
    window = image[row - 14 : row + 15, column - 14 : column + 15, 0].astype(np.float64)
    v, u = np.mgrid[row - 14 : row + 15, column - 14 : column + 15]
    return np.array([(window * u).sum(), (window * v).sum()]) / window.sum()


@pytest.mark.parametrize('flip', [False, True])
def test_markers_land_where_the_matrices_say(flip: bool) -> None:
    camera = front()
    undistorted = np.array([[700.3, 400.6], [1100.8, 520.2], [400.1, 610.9], [860.5, 300.7]])
    raw = np.stack(distort_points(camera, *undistorted.T), axis=1)
    augmentation = ImageAugmentation(RAW_SIZE, (540, 960), 92, 30, FINAL_SIZE, flip)
    warped = pixel_map(camera, augmentation).sample(blobs(raw), cv2.INTER_LINEAR)
    for u, v in undistorted:
        expected = (augmentation.matrix() @ [u, v, 1, 1])[:2]
        assert np.abs(centroid(warped, expected) - expected).max() < 0.1


def two_steps(image: np.ndarray, camera: CameraCalibration, augmentation: ImageAugmentation) -> np.ndarray:
    """Undistort at full size, then resize, crop and flip: the way of 2023 (half pixel corrected)."""
    whole = ImageAugmentation(RAW_SIZE, RAW_SIZE, 0, 0, RAW_SIZE, flip=False)
    undistorted = pixel_map(camera, whole).sample(image, cv2.INTER_LINEAR)
    height, width = augmentation.resized
    resized = cv2.resize(undistorted, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = augmentation.top, augmentation.left
    cropped = resized[top : top + FINAL_SIZE[0], left : left + FINAL_SIZE[1]]
    return cropped[:, ::-1] if augmentation.flip else cropped


def smooth_scene() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (*RAW_SIZE, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 6)
    smooth = (smooth - smooth.mean()) / smooth.std() * 50 + 127
    return smooth.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('flip', [False, True])
def test_one_warp_agrees_with_two_steps(flip: bool) -> None:
    augmentation = ImageAugmentation(RAW_SIZE, (540, 960), 92, 30, FINAL_SIZE, flip)
    image = smooth_scene()
    fused = pixel_map(front(), augmentation).sample(image, cv2.INTER_LINEAR)
    stepwise = two_steps(image, front(), augmentation)
    assert cv2.PSNR(fused, np.ascontiguousarray(stepwise)) > 45


def test_one_warp_agrees_with_the_official_undistortion_of_a_real_image(shared_samples: Path) -> None:
    raw = cv2.imread(str(shared_samples / 'carla_front_raw.png'), cv2.IMREAD_COLOR_RGB)
    official = cv2.imread(str(shared_samples / 'carla_front_undistorted.png'), cv2.IMREAD_COLOR_RGB)
    whole = ImageAugmentation(RAW_SIZE, RAW_SIZE, 0, 0, RAW_SIZE, flip=False)
    exact = pixel_map(front(), whole)
    assert cv2.PSNR(exact.sample(raw, cv2.INTER_LINEAR), official) > 60
    # Sensitive to the half pixel by which the sampler of 2023 was off: this image has no such shift.
    shifted = exact._replace(x=exact.x - 0.5, y=exact.y - 0.5)
    assert cv2.PSNR(shifted.sample(raw, cv2.INTER_LINEAR), official) < 36
    # One sampling against the official image, resized and cropped: two samplings blur more.
    augmentation = center_augmentation(RAW_SIZE, FINAL_SIZE)
    fused = pixel_map(front(), augmentation).sample(raw, cv2.INTER_LINEAR)
    resized = cv2.resize(official, (896, 504), interpolation=cv2.INTER_LINEAR)[56:]
    assert cv2.PSNR(fused, np.ascontiguousarray(resized)) > 42


@given(st.integers(0, 2**32))
def test_no_class_or_depth_is_invented(seed: int) -> None:
    generator = np.random.default_rng(seed)
    small = generator.choice(np.array([0, 7, 10, 18, 22], np.uint8), (45, 80))
    class_ids = cv2.resize(small, (160, 90), interpolation=cv2.INTER_NEAREST)
    depth_code = encode_depth(generator.choice([2.0, 9.0, 300.0], (90, 160)))
    camera = package_calibration().cameras[0]
    tenth = replace(camera, raw_intrinsics=camera.raw_intrinsics / 10, intrinsics=camera.intrinsics / 10)
    positions = pixel_map(tenth, draw_augmentation(generator, (90, 160), (44, 88)))
    assert set(np.unique(positions.sample(class_ids, outside=255))) <= {*np.unique(class_ids), 255}
    depths = np.unique(decode_depth(positions.sample(depth_code)))
    assert set(depths) <= {0, *np.unique(decode_depth(depth_code))}


def test_labels_are_sampled_at_the_nearest_pixel_center_and_marked_outside() -> None:
    camera = front()
    augmentation = center_augmentation(RAW_SIZE, FINAL_SIZE)
    positions = pixel_map(camera, augmentation)
    v, u = np.mgrid[: RAW_SIZE[0], : RAW_SIZE[1]]
    code = np.stack([u & 255, v & 255, (u >> 8) * 16 + (v >> 8)], axis=-1).astype(np.uint8)
    sampled = positions.sample(code).astype(int)
    columns = sampled[..., 0] + (sampled[..., 2] >> 4) * 256
    rows = sampled[..., 1] + (sampled[..., 2] & 15) * 256
    inside = (positions.x > 0) & (positions.x < 1599) & (positions.y > 0) & (positions.y < 899)
    assert np.abs(columns - positions.x)[inside].max() <= 0.5 + 1 / 32
    assert np.abs(rows - positions.y)[inside].max() <= 0.5 + 1 / 32
    beyond = (positions.x < -1) | (positions.x > 1600) | (positions.y < -1) | (positions.y > 900)
    assert beyond.any()
    assert (positions.sample(np.full(RAW_SIZE, 7, np.uint8), outside=255)[beyond] == 255).all()
    assert (positions.sample(np.full((*RAW_SIZE, 3), 200, np.uint8), cv2.INTER_LINEAR)[beyond] == 0).all()
