"""Pictures of data: points land where cameras see them, labels keep their colors apart."""

import numpy as np
import torch

from thinktwice.core.visualization import data


def camera(zoom: float = 1.0) -> dict[str, np.ndarray]:
    """A pinhole 2 m up looking ahead: 60 x 100 pixels, focal length 50."""
    intrinsics = np.array([[50, 0, 49.5], [0, 50, 29.5], [0, 0, 1.0]])
    cam2ego = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 2], [0, 0, 0, 1.0]])
    return {'intrinsics': intrinsics, 'cam2ego': cam2ego, 'ida_mats': np.eye(4)}


def test_points_are_drawn_at_their_pixels_and_near_ones_on_top() -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    points = np.array([[5.0, 1.0, 2.0], [10.0, 2.0, 2.0], [-5.0, 0.0, 2.0], [5.0, 90.0, 2.0]])
    data.draw_points_on_image(image, points, camera(), zoom=1)
    rows, columns = np.nonzero(image.any(axis=2))
    # 50 * 1/5 right of the middle for both of the first two; the others are out of view.
    assert list(zip(rows, columns, strict=True)) == [(30, 60)]
    np.testing.assert_array_equal(image[30, 60], data.color_depths(np.array([5.0]))[0])


def test_enlarging_moves_pixel_centers_by_the_half_pixel() -> None:
    image = np.zeros((180, 300, 3), np.uint8)
    data.draw_points_on_image(image, np.array([[5.0, 1.05, 2.05]]), camera(), zoom=3)
    rows, columns = np.nonzero(image.any(axis=2))
    # Pixel (60, 29) before; its center is at 3 * 60 + 1 after.
    assert (rows.tolist(), columns.tolist()) == ([88], [181])


def test_depths_and_classes_have_colors_of_their_own() -> None:
    depth = np.array([[0.0, 2.0], [20.0, 1000.0]])
    colors = data.color_depths(depth)
    assert colors.shape == (2, 2, 3) and not colors[0, 0].any()
    assert colors[0, 1, 0] > colors[0, 1, 2] and colors[1, 0].tolist() != colors[0, 1].tolist()
    assert data.color_depths(np.zeros(0)).shape == (0, 3)
    classes = data.color_classes(np.array([*range(12), 255], np.uint8))
    assert len({tuple(color) for color in classes}) == 13 and not classes[-1].any()


def test_a_sample_without_labels_is_drawn_too() -> None:
    matrices = {key: torch.from_numpy(value)[None, None] for key, value in camera().items()}
    inputs = {
        'img': torch.full((1, 1, 3, 60, 100), 80, dtype=torch.uint8),
        'points': torch.tensor([[5.0, 1, 2, 1, 0], [6.0, 1, 2, 1, -1]]),
        'target_point': torch.tensor([20.0, -3.0]),
        'speed': torch.tensor(3.0),
        'command': torch.tensor(0),
        **matrices,
    }
    sample = {'inputs': inputs, 'metas': {'sample_id': 'town01_00/a/0001'}}
    assert data.describe_sample(sample).startswith('town01_00/a/0001   3.0 m/s   command: left')
    picture = data.browse_picture(sample, sample, width=100)
    assert picture.dtype == np.uint8 and picture.shape[1] > 500
