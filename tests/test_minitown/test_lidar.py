import numpy as np
import pytest
from helpers.solid_shapes import random_shapes, shape_in_ego, surface_distance

from thinktwice.minitown import CameraRig, Lidar, Renderer, Scene, Sensors, make_calibration, plain_ground


def test_points_lie_on_shapes_or_on_the_ground_and_are_the_first_hit():
    shapes, pose = random_shapes(5), (1.0, 2.0, -0.4)
    points = Lidar(channels=24, columns=180).sweep(Scene(shapes), pose)
    xyz = points[:, :3].astype(np.float64)
    nearest = np.abs(xyz[:, 2])
    for index in range(len(shapes)):
        shape = shape_in_ego(shapes, index, pose)
        nearest = np.minimum(nearest, np.abs(surface_distance(xyz, *shape)))
        for share in (0.3, 0.6, 0.9):
            before = share * xyz + (1 - share) * np.array([0, 0, 2.5])
            assert surface_distance(before, *shape).min() > -1e-4
    assert nearest.max() < 1e-4
    assert (nearest[xyz[:, 2] > 0.01] < 1e-4).sum() > 100


def test_points_projected_into_the_cameras_have_the_depth_of_their_pixels():
    scene, pose = Scene(random_shapes(7)), (0.0, 0.0, 0.3)
    rig = CameraRig((120, 200))
    points = Lidar(channels=32, columns=300).sweep(scene, pose)[:, :3].astype(np.float64)
    views = Renderer(rig).render(scene, pose)
    compared = 0
    for view, camera in zip(views, make_calibration(Sensors(rig))['cameras'], strict=True):
        in_camera = np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(camera['cam2ego']).T
        fx, fy, cx, cy = camera['intrinsics']
        front = in_camera[:, 2] > 0.5
        x, y, z = in_camera[front, :3].T
        u, v = np.round(fx * x / z + cx).astype(int), np.round(fy * y / z + cy).astype(int)
        inside = (u >= 1) & (u < 199) & (v >= 1) & (v < 119)
        u, v, z = u[inside], v[inside], z[inside]
        around = np.stack([view.depth[v + i, u + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
        low, high = around.min(0), around.max(0)
        # A LiDAR sees from another place, so it may see past a shape's edge; a point before the
        # picture's surface can only lie on a side so slanted that it is narrower than a pixel.
        in_front, behind = z < low * 0.98 - 0.05, z > high * 1.02 + 0.05
        assert in_front.mean() < 0.01
        assert (in_front | behind).mean() < 0.02
        compared += len(z)
    assert compared > 2000


def test_intensity_is_a_function_of_the_range():
    points = Lidar(channels=16, columns=90).sweep(Scene(random_shapes(1)), (0.0, 0.0, 0.0))
    reach = np.linalg.norm(points[:, :3] - (0, 0, 2.5), axis=1)
    np.testing.assert_allclose(points[:, 3], np.exp(-0.004 * reach), rtol=1e-6)
    assert reach.max() <= 85.0001
    assert 0.711 < points[:, 3].min() <= points[:, 3].max() <= 1.0


def test_losses_follow_the_generator():
    scene, pose, lidar = Scene(random_shapes(2), plain_ground()), (0.0, 0.0, 0.0), Lidar(32, 360)
    whole = lidar.sweep(scene, pose)
    first = lidar.sweep(scene, pose, np.random.default_rng(4))
    again = lidar.sweep(scene, pose, np.random.default_rng(4))
    other = lidar.sweep(scene, pose, np.random.default_rng(5))
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or not np.array_equal(first, other)
    assert 0.5 < len(first) / len(whole) < 0.58
    rows = {row.tobytes() for row in whole}
    assert all(row.tobytes() in rows for row in first)


@pytest.mark.parametrize(('channels', 'columns'), [(0, 100), (64, 3), (1000, 100)])
def test_an_impossible_sensor_is_refused(channels, columns):
    with pytest.raises(ValueError, match='beams'):
        Lidar(channels, columns)
