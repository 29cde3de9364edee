"""Alignment of LiDAR sweeps as in the 2023 code (docs/reference_quirks, Q1, Q2)."""

import numpy as np

from thinktwice.datasets.pipelines.points import POINT_INTENSITY, POINT_XYZ, LoadPoints
from thinktwice.geometry import poses
from thinktwice.registry import TRANSFORMS


def reference_relative_pose(history: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Matrix (4, 4) that the 2023 code used as the transform from history to key ego frame (Q1).

    The displacement from history to key, along the key heading as (forward, right), is used as
    the translation (-right, forward) and then rotated: its axes are swapped, its sign is wrong,
    and the rotation should use the other heading. Driving 3 m straight on
    moves history points 3 m to the right instead of 3 m back; over random pairs of poses the
    error is 8.5 m on average.

    Args:
        history: (3,) world x, y in meters and yaw in radians of the history frame.
        key: The same of the key frame.
    """
    displacement = key[: poses.POSE_YAW] - history[: poses.POSE_YAW]
    forward, right = poses.rotation_matrix(key[poses.POSE_YAW]).T @ displacement
    matrix = np.eye(4)
    matrix[:2, :2] = poses.rotation_matrix(history[poses.POSE_YAW] - key[poses.POSE_YAW])
    matrix[:2, 3] = matrix[:2, :2] @ (-right, forward)
    return matrix


@TRANSFORMS.register_module()
class ReferenceLoadPoints(LoadPoints):
    """Load the multi-sweep cloud as the 2023 code did; keys as in :class:`LoadPoints`."""

    def align(self, sweep: np.ndarray, history: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Transform a sweep by the wrong matrix, with the translation scaled by the intensity (Q1, Q2).

        The rows [x, y, z, intensity] were multiplied by the 4x4 matrix, so the intensity, 0.71
        to 1, took the place of the homogeneous 1.

        Args:
            sweep: (P, 4) x, y, z, intensity.
            history: (3,) pose of the sweep's frame.
            key: (3,) pose of the key frame.

        Returns:
            (P, 3).
        """
        matrix = reference_relative_pose(history, key)
        intensity = sweep[:, POINT_INTENSITY, None].astype(np.float64)
        return sweep[:, POINT_XYZ] @ matrix[:3, :3].T + intensity * matrix[:3, 3]
