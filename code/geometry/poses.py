"""Planar poses: GNSS to meters, headings, and transforms between frames.

Everything is float64 numpy; cast the final result. Frames:

* **world**: x east, y south, z up (left-handed), the simulator's frame, meters;
* **ego**: x forward, y right, z up (left-handed), origin on the ground under the LiDAR, meters.

A pose ``(x, y, yaw)`` places the ego frame, or that of another object, in the world; yaw is 0 along
world x and increases toward world y: clockwise seen from above. A matrix ``a2b`` maps column vectors
in frame a to frame b.
"""

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
ArrayOrScalar = Array | np.float64  # numpy returns a scalar for a scalar

POSE_X, POSE_Y, POSE_YAW = 0, 1, 2


def gnss_to_north_east(
    latitude: ArrayLike, longitude: ArrayLike, north_per_degree: float, east_per_degree: float
) -> tuple[ArrayOrScalar, ArrayOrScalar]:
    """Convert GNSS degrees to meters from the map's origin (latitude = longitude = 0).

    Args:
        latitude: Degrees, any shape.
        longitude: Degrees, the same shape.
        north_per_degree: Meters per degree of latitude, from the dataset's calibration.
        east_per_degree: Meters per degree of longitude, from the dataset's calibration.

    Returns:
        North and east in meters, each of the input's shape.
    """
    north = np.asarray(latitude, dtype=np.float64) * north_per_degree
    east = np.asarray(longitude, dtype=np.float64) * east_per_degree
    return north, east


def north_east_to_world(north: ArrayLike, east: ArrayLike) -> Float64[np.ndarray, '*points 2']:
    """World position of a (north, east) position: x = east, y = -north.

    Args:
        north: Meters, any shape.
        east: Meters, the same shape.

    Returns:
        World x and y in meters.
    """
    return np.stack([np.asarray(east, dtype=np.float64), -np.asarray(north, dtype=np.float64)], axis=-1)


def world_to_north_east(points: ArrayLike) -> tuple[ArrayOrScalar, ArrayOrScalar]:
    """North and east of world positions (..., 2); the inverse of `north_east_to_world`."""
    world = np.asarray(points, dtype=np.float64)
    return -world[..., 1], world[..., 0].copy()


def gnss_to_world(
    latitude: ArrayLike, longitude: ArrayLike, north_per_degree: float, east_per_degree: float
) -> Float64[np.ndarray, '*points 2']:
    """World position in meters of GNSS degrees; see `gnss_to_north_east` for the factors."""
    return north_east_to_world(*gnss_to_north_east(latitude, longitude, north_per_degree, east_per_degree))


def compass_to_yaw(theta: ArrayLike) -> ArrayOrScalar:
    """Yaw in radians of a compass heading (0 = north, clockwise). NaN stays NaN."""
    return np.asarray(theta, dtype=np.float64) - np.pi / 2


def wrap_angle(angle: ArrayLike) -> ArrayOrScalar:
    """The same angle in [-pi, pi), radians."""
    return (np.asarray(angle, dtype=np.float64) + np.pi) % (2 * np.pi) - np.pi


def rotation_matrix(yaw: float) -> Float64[np.ndarray, '2 2']:
    """Rotation by `yaw` radians: rotates ego directions into the world."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin], [sin, cos]], dtype=np.float64)


def pose_matrix(pose: ArrayLike, z: float = 0.0) -> Float64[np.ndarray, '4 4']:
    """`ego2world` of a planar pose.

    Args:
        pose: (3,) x, y in meters and yaw in radians.
        z: Height of the frame's origin above the world's, meters.
    """
    x, y, yaw = np.asarray(pose, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:2, :2] = rotation_matrix(yaw)
    matrix[:3, 3] = x, y, z
    return matrix


def relative_pose(history: ArrayLike, key: ArrayLike) -> Float64[np.ndarray, '4 4']:
    """`frame2key`: maps points in the history ego frame to the key ego frame.

    It is computed from differences, not from two world matrices, and so stays precise far from the
    map's origin. A static point seen at p in the history frame is at ``frame2key @ p`` in the key frame.

    Args:
        history: (3,) Pose of the history frame.
        key: (3,) Pose of the key frame.

    Returns:
        The matrix; the identity for equal poses.
    """
    history = np.asarray(history, dtype=np.float64)
    key = np.asarray(key, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:2, :2] = rotation_matrix(history[POSE_YAW] - key[POSE_YAW])
    matrix[:2, 3] = rotation_matrix(key[POSE_YAW]).T @ (history[:POSE_YAW] - key[:POSE_YAW])
    return matrix


def world_to_ego(points: ArrayLike, pose: ArrayLike) -> Float64[np.ndarray, '*points xyz']:
    """Transform world positions to the ego frame of a pose.

    Args:
        points: (..., 2) or (..., 3) world positions in meters; z is unchanged.
        pose: (3,) x, y in meters and yaw in radians.

    Returns:
        Positions forward, right(, up), meters.
    """
    pose = np.asarray(pose, dtype=np.float64)
    ego = np.array(points, dtype=np.float64)
    # Row vectors times R(yaw) are column vectors times its transpose: world to ego.
    ego[..., :2] = (ego[..., :2] - pose[:POSE_YAW]) @ rotation_matrix(pose[POSE_YAW])
    return ego


def ego_to_world(points: ArrayLike, pose: ArrayLike) -> Float64[np.ndarray, '*points xyz']:
    """Transform positions in the ego frame of a pose to the world; the inverse of `world_to_ego`."""
    pose = np.asarray(pose, dtype=np.float64)
    world = np.array(points, dtype=np.float64)
    world[..., :2] = world[..., :2] @ rotation_matrix(pose[POSE_YAW]).T + pose[:POSE_YAW]
    return world


def transform_points(a2b: ArrayLike, points: ArrayLike) -> Float64[np.ndarray, '*points 3']:
    """Apply a (4, 4) rigid transform to points (..., 3)."""
    matrix = np.asarray(a2b, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
