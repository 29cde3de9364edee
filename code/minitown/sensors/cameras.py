"""Pinhole cameras: their poses, intrinsics and viewing rays.

Camera frame: x right, y down, z along the optical axis. Integer pixel coordinates are
pixel centers.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from thinktwice.errors import ConfigError
from thinktwice.geometry.poses import pose_matrix

MIN_SIZE = 16
MAX_SIZE = 4096
_CAMERA_AXES = np.array(
    [[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
"""Camera axes in the frame of the camera's mount: x forward, y right, z up."""


@dataclass(frozen=True)
class Camera:
    """Where a camera is mounted.

    Attributes:
        name: Suffix of its folders, such as ``front``.
        position: x, y, z in the ego frame, meters.
        yaw: Radians, positive to the right.
    """

    name: str
    position: tuple[float, float, float]
    yaw: float

    @property
    def cam2ego(self) -> np.ndarray:
        """The (4, 4) matrix from camera to ego coordinates."""
        x, y, z = self.position
        matrix = pose_matrix((x, y, self.yaw), z) @ _CAMERA_AXES
        return np.where(np.abs(matrix) < 1e-12, 0.0, matrix)


CARLA_CAMERAS = (
    Camera('front', (1.5, 0.0, 2.5), 0.0),
    Camera('left', (0.0, -0.3, 2.5), -math.pi / 2),
    Camera('right', (0.0, 0.3, 2.5), math.pi / 2),
    Camera('back', (-1.6, 0.0, 2.5), math.pi),
)
"""Camera poses of the CARLA recordings; depth and classes are taken from the color camera's pose."""


@dataclass(frozen=True)
class CameraRig:
    """Cameras with the same intrinsics.

    Args:
        size: Image height and width in pixels.
        field_of_view: Horizontal, degrees.
        cameras: In the order of the dataset, front first.

    Raises:
        ConfigError: The size or the field of view is out of range.
    """

    size: tuple[int, int]
    field_of_view: float = 100.0
    cameras: tuple[Camera, ...] = CARLA_CAMERAS

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(MIN_SIZE <= value <= MAX_SIZE for value in self.size):
            raise ConfigError(
                f'size must be height and width of {MIN_SIZE} to {MAX_SIZE} pixels, got {tuple(self.size)}'
            )
        if not 20.0 <= self.field_of_view <= 160.0:
            raise ConfigError(f'field_of_view must be 20 to 160 degrees, got {self.field_of_view}')

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """Focal lengths and principal point (fx, fy, cx, cy) in pixels."""
        height, width = self.size
        focal = width / 2 / math.tan(math.radians(self.field_of_view) / 2)
        return focal, focal, (width - 1) / 2, (height - 1) / 2

    @cached_property
    def ego_rays(self) -> list[np.ndarray]:
        """Per camera (H, W, 3) ray directions in the ego frame, of length 1 along the optical axis.

        The ray parameter of such a ray is the z-depth.
        """
        height, width = self.size
        fx, fy, cx, cy = self.intrinsics
        u, v = np.meshgrid(np.arange(width), np.arange(height))
        rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(u.shape)], axis=-1)
        return [np.ascontiguousarray(rays @ camera.cam2ego[:3, :3].T) for camera in self.cameras]
