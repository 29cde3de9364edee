"""The four pinhole cameras: rig, calibration and viewing rays.

Camera frame: x right, y down, z along the optical axis. Integer pixel
coordinates are pixel centers.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

LIDAR_HEIGHT = 2.5
FRAME_INTERVAL = 0.5
NORTH_PER_DEGREE = 111324.60662786
EAST_PER_DEGREE = 111319.490945
TEACHER_VIEW_X = (-8.0, 30.4)
TEACHER_VIEW_Y = (-19.2, 19.2)


@dataclass(frozen=True)
class Camera:
    """Where a camera sits: `position` in the ego frame in meters, `yaw` in radians (right positive)."""

    name: str
    position: tuple[float, float, float]
    yaw: float

    @property
    def cam2ego(self) -> np.ndarray:
        """The (4, 4) matrix from camera to ego coordinates."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        matrix = np.eye(4)
        matrix[:3, 0] = (-sin, cos, 0.0)
        matrix[:3, 1] = (0.0, 0.0, -1.0)
        matrix[:3, 2] = (cos, sin, 0.0)
        matrix[:3, 3] = self.position
        return np.where(np.abs(matrix) < 1e-12, 0.0, matrix)


CARLA_CAMERAS = (
    Camera('front', (1.5, 0.0, 2.5), 0.0),
    Camera('left', (0.0, -0.3, 2.5), -math.pi / 2),
    Camera('right', (0.0, 0.3, 2.5), math.pi / 2),
    Camera('back', (-1.6, 0.0, 2.5), math.pi),
)
"""Positions of the recording cars of the CARLA dataset, all labels taken from the color camera's place."""


@dataclass(frozen=True)
class CameraRig:
    """Cameras that share one pinhole lens.

    Args:
        size: image height and width in pixels.
        field_of_view: horizontal, in degrees.
        cameras: in the order of the dataset, front first.
    """

    size: tuple[int, int]
    field_of_view: float = 100.0
    cameras: tuple[Camera, ...] = CARLA_CAMERAS

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """Focal lengths and principal point (fx, fy, cx, cy) in pixels."""
        height, width = self.size
        focal = width / 2 / math.tan(math.radians(self.field_of_view) / 2)
        return focal, focal, (width - 1) / 2, (height - 1) / 2

    @cached_property
    def ego_rays(self) -> list[np.ndarray]:
        """Per camera (H, W, 3) ray directions in the ego frame, of length 1 along the optical axis.

        The distance along such a ray is the z-depth, so no conversion is needed later.
        """
        height, width = self.size
        fx, fy, cx, cy = self.intrinsics
        u, v = np.meshgrid(np.arange(width), np.arange(height))
        rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(u.shape)], axis=-1)
        return [np.ascontiguousarray(rays @ camera.cam2ego[:3, :3].T) for camera in self.cameras]

    def calibration(self) -> dict[str, Any]:
        """Return the content of a dataset's ``calibration.json``."""
        lens = [float(value) for value in self.intrinsics]
        cameras = [
            {
                'name': camera.name,
                'rgb': f'rgb_{camera.name}',
                'depth': f'depth_{camera.name}',
                'seg': f'seg_{camera.name}',
                'raw_intrinsics': lens,
                'distortion': [0.0] * 5,
                'intrinsics': lens,
                'cam2ego': camera.cam2ego.tolist(),
                'depth_offset': 0.0,
            }
            for camera in self.cameras
        ]
        return {
            'schema_version': 1,
            'frame_interval': FRAME_INTERVAL,
            'image_size': list(self.size),
            'gnss': {'north_per_degree': NORTH_PER_DEGREE, 'east_per_degree': EAST_PER_DEGREE},
            'cameras': cameras,
            'lidar': {'height': LIDAR_HEIGHT},
            'bev': {'x': list(TEACHER_VIEW_X), 'y': list(TEACHER_VIEW_Y)},
        }
