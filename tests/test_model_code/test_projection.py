import numpy as np
import torch
from helpers.small_encoders import camera_rig

from thinktwice.model_code.projection import ego_to_image, project_to_cameras

SIZE = (60, 100)
INTRINSICS = torch.tensor([[40.0, 0, 50], [0, 30, 30], [0, 0, 1]])


def project(points, ida=None, cameras=4):
    ego2img = ego_to_image(INTRINSICS.expand(1, cameras, 3, 3), camera_rig(cameras)[None])
    ida = torch.eye(4).expand(1, cameras, 4, 4) if ida is None else ida
    return project_to_cameras(torch.tensor(points, dtype=torch.float32)[None], ego2img, ida, SIZE)


def test_matrix_is_intrinsics_times_the_inverse_pose() -> None:
    cam2ego = camera_rig()
    cam2ego[0, :3, :3] = torch.linalg.qr(torch.randn(3, 3))[0]
    padded = np.eye(4)
    padded[:3, :3] = INTRINSICS
    expected = padded @ np.linalg.inv(cam2ego.double().numpy())
    actual = ego_to_image(INTRINSICS.expand(4, 3, 3), cam2ego)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-4)


def test_what_lies_on_the_optical_axis_is_in_the_image_center() -> None:
    locations, visible = project([[11.5, 0, 2.5], [-11.6, 0, 2.5], [0, -10.3, 2.5]])
    for camera, point in ((0, 0), (3, 1), (1, 2)):  # front, back, left
        torch.testing.assert_close(locations[0, camera, point], torch.tensor([0.5, 0.5]))
        assert visible[0, camera, point]


def test_near_and_far_points_keep_full_precision_under_autocast() -> None:
    points = [[1.5 + distance, distance / 7, 2.5 - distance / 9] for distance in (1e-3, 0.1, 12.345, 1e4)]
    expected = project(points)
    with torch.autocast('cpu', torch.bfloat16):
        locations, visible = project(points)
    assert torch.equal(locations, expected[0]) and torch.equal(visible, expected[1])
    assert visible[0, 0].all()


def test_right_is_right_and_the_ground_is_below() -> None:
    # 10 m in front of the camera, 5 m to the right, on the ground
    locations, visible = project([[11.5, 5, 0]])
    expected = torch.tensor([(50 + 40 * 5 / 10) / 100, (30 + 30 * 2.5 / 10) / 60])
    torch.testing.assert_close(locations[0, 0, 0], expected)
    assert visible[0, :, 0].tolist() == [True, False, False, False]


def test_points_behind_a_camera_or_outside_its_image_are_not_seen() -> None:
    _, visible = project([[1.4, 0, 2.5], [11.5, 13, 2.5], [11.5, 0, 13]])
    assert not visible[0, 0].any()


def test_the_border_itself_is_outside() -> None:
    # u = 50 + 40 * 12.5 / 10 = 100 is the right border
    _, visible = project([[11.5, 12.5, 2.5], [11.5, 12.49, 2.5]])
    assert visible[0, 0].tolist() == [False, True]


def test_the_image_augmentation_is_applied_to_pixels() -> None:
    flip = torch.eye(4).repeat(1, 4, 1, 1)
    flip[..., 0, 0], flip[..., 0, 3], flip[..., 1, 3] = -1, 100, 6
    straight, _ = project([[11.5, 5, 0]])
    flipped, _ = project([[11.5, 5, 0]], flip)
    torch.testing.assert_close(flipped[0, 0, 0, 0], 1 - straight[0, 0, 0, 0])
    torch.testing.assert_close(flipped[0, 0, 0, 1], straight[0, 0, 0, 1] + 6 / 60)


def test_a_point_behind_is_not_seen_even_where_the_clamped_division_falls_into_the_image() -> None:
    matrix = torch.zeros(1, 1, 4, 4)
    matrix[0, 0, :, 3] = torch.tensor([5e-4, 3e-4, -1.0, 1.0])  # u = 50 and v = 30 after dividing by 1e-5
    ida = torch.eye(4).expand(1, 1, 4, 4)
    locations, visible = project_to_cameras(torch.zeros(1, 1, 3), matrix, ida, SIZE)
    torch.testing.assert_close(locations[0, 0, 0], torch.tensor([0.5, 0.5]))
    assert not visible.any()
