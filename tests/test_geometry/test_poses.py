"""Poses against the published test vectors and against properties that any right formula has."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktwice.geometry import poses

NORTH_PER_DEGREE = 111324.60662786
EAST_PER_DEGREE = 111319.490945
KEY_X, KEY_Y, KEY_THETA = -50.0, 100.0, 2.0943951023931953

coordinate = st.floats(-5000, 5000)
angle = st.floats(-7, 7)
pose_strategy = st.tuples(coordinate, coordinate, angle).map(np.array)
offset = st.tuples(st.floats(-60, 60), st.floats(-60, 60), st.floats(-3, 10)).map(np.array)


def pose_of(north: float, east: float, theta: float) -> np.ndarray:
    return np.array([*poses.north_east_to_world(north, east), poses.compass_to_yaw(theta)])


def test_gnss_degrees_become_world_meters() -> None:
    world = poses.gnss_to_world(-0.0004491576420520, 0.0008983152841195, NORTH_PER_DEGREE, EAST_PER_DEGREE)
    np.testing.assert_allclose(world, [100.0, 50.002298], atol=1e-6)
    north, east = poses.gnss_to_north_east(
        -0.0004491576420520, 0.0008983152841195, NORTH_PER_DEGREE, EAST_PER_DEGREE
    )
    np.testing.assert_allclose([north, east], [-50.002298, 100.0], atol=1e-6)


def test_north_east_round_trip() -> None:
    world = np.array([[1.0, 2.0], [-3.0, 4.0]])
    np.testing.assert_array_equal(poses.north_east_to_world(*poses.world_to_north_east(world)), world)


@pytest.mark.parametrize(
    ('theta', 'yaw_degrees'), [(0.0, -90.0), (np.pi / 2, 0.0), (2.356194, 45.0), (4.886922, 190.0)]
)
def test_compass_heading_becomes_yaw(theta: float, yaw_degrees: float) -> None:
    assert np.degrees(poses.compass_to_yaw(theta)) == pytest.approx(yaw_degrees, abs=1e-4)


def test_nan_heading_stays_nan() -> None:
    assert np.isnan(poses.compass_to_yaw(float('nan')))


@given(st.floats(-100, 100))
def test_wrapped_angle_points_the_same_way(value: float) -> None:
    wrapped = poses.wrap_angle(value)
    assert -np.pi <= wrapped < np.pi + 1e-9
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * value), atol=1e-12)


def test_waypoint_and_target_of_the_published_vector() -> None:
    key = pose_of(KEY_X, KEY_Y, KEY_THETA)
    waypoint = poses.world_to_ego(poses.north_east_to_world(-52.0, 103.0), key)
    target = poses.world_to_ego(poses.north_east_to_world(-80.0, 120.0), key)
    np.testing.assert_allclose(waypoint, [3.59807621, 0.23205081], atol=1e-8)
    np.testing.assert_allclose(target, [32.32050808, 15.98076211], atol=1e-8)


def test_straight_drive_shifts_the_history_back() -> None:
    frame2key = poses.relative_pose([0, 0, 0], [3, 0, 0])
    np.testing.assert_allclose(frame2key[:3, 3], [-3, 0, 0], atol=1e-12)
    np.testing.assert_allclose(poses.transform_points(frame2key, [10, 0, 1]), [7, 0, 1], atol=1e-12)


def test_turn_of_the_published_vector() -> None:
    history = pose_of(KEY_X, KEY_Y, KEY_THETA)
    key = pose_of(-51.5, 102.0, 2.2689280275926285)
    world = np.array([110.0, 60.0, 1.0])
    seen = poses.world_to_ego(world, history)
    frame2key = poses.relative_pose(history, key)
    np.testing.assert_allclose(seen, [13.6602540378, 3.6602540378, 1], atol=1e-9)
    np.testing.assert_allclose(frame2key[:2, 3], [-2.4962703008, 0.1365085547], atol=1e-9)
    np.testing.assert_allclose(frame2key[0, :2], [0.984807753, 0.1736481777], atol=1e-9)
    np.testing.assert_allclose(
        poses.transform_points(frame2key, seen), [11.5920502273, 1.369076889, 1], atol=1e-9
    )


@given(pose_strategy, pose_strategy, offset)
def test_static_point_seen_from_two_poses_agrees(
    history: np.ndarray, key: np.ndarray, seen: np.ndarray
) -> None:
    # Independent route: lift into the world with explicit trigonometry, then look from the key.
    cos, sin = np.cos(history[2]), np.sin(history[2])
    world_x = history[0] + cos * seen[0] - sin * seen[1]
    world_y = history[1] + sin * seen[0] + cos * seen[1]
    expected = poses.world_to_ego([world_x, world_y, seen[2]], key)
    moved = poses.transform_points(poses.relative_pose(history, key), seen)
    np.testing.assert_allclose(moved, expected, atol=1e-6)


@given(pose_strategy, pose_strategy)
def test_relative_pose_equals_the_product_of_pose_matrices(history: np.ndarray, key: np.ndarray) -> None:
    product = np.linalg.inv(poses.pose_matrix(key)) @ poses.pose_matrix(history)
    np.testing.assert_allclose(poses.relative_pose(history, key), product, atol=1e-6)


@given(pose_strategy)
def test_pose_matrix_maps_the_ego_origin_to_the_pose(pose: np.ndarray) -> None:
    np.testing.assert_allclose(poses.world_to_ego(pose[:2], pose), [0, 0], atol=1e-9)
    np.testing.assert_allclose(poses.pose_matrix(pose)[:2, 3], pose[:2])
    ahead = poses.transform_points(poses.pose_matrix(pose), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(ahead[:2] - pose[:2], [np.cos(pose[2]), np.sin(pose[2])], atol=1e-9)
    np.testing.assert_array_equal(poses.pose_matrix(pose, 1.5)[2], [0, 0, 1, 1.5])


@given(pose_strategy, offset)
def test_ego_to_world_is_the_pose_matrix_and_the_inverse_of_world_to_ego(
    pose: np.ndarray, point: np.ndarray
) -> None:
    world = poses.ego_to_world(point, pose)
    np.testing.assert_allclose(world, poses.transform_points(poses.pose_matrix(pose), point), atol=1e-9)
    np.testing.assert_allclose(poses.world_to_ego(world, pose), point, atol=1e-9)
    # Independent of both: complex numbers turn the plane.
    turned = complex(*point[:2]) * np.exp(1j * pose[2]) + complex(*pose[:2])
    rows = poses.ego_to_world(np.tile(point[:2], (4, 1)), pose)
    np.testing.assert_allclose(rows, np.tile([turned.real, turned.imag], (4, 1)), atol=1e-9)
