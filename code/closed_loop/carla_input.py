"""CARLA's sensors, buffers and routes in the terms of the driving agent.

Data specification, sections 1.8, 4 and 7. Buffers are numpy arrays, as the leaderboard takes them from the
server; nothing is imported from CARLA.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from thinktwice.closed_loop.agent import SensorData
from thinktwice.datasets.calibration import Calibration
from thinktwice.geometry import poses
from thinktwice.geometry.route_planner import RouteNode

TICK_SECONDS = 0.05
"""Time between two ticks of the leaderboard; the LiDAR turns by half a revolution in it."""
LIDAR, IMU, GNSS, SPEED = 'lidar', 'imu', 'gnss', 'speed'
"""Ids of the sensors besides the cameras, whose ids are the folders of their images."""
COMPASS = -1
"""Place of the heading in the array of the IMU, after acceleration and angular velocity."""


def sensor_rig(calibration: Calibration) -> list[dict[str, Any]]:
    """The sensors of the recordings in the form that a leaderboard agent returns from ``sensors()``.

    Args:
        calibration: Of the vehicle; every camera has its optical axis level and the image center as
            principal point.
    """
    height, width = calibration.stored_size
    rig = []
    for camera in calibration.cameras:
        x, y, z = camera.cam2ego[:3, 3].tolist()
        forward = camera.cam2ego[:3, 2]
        rig.append(
            {
                'type': 'sensor.camera.rgb',
                'id': camera.rgb,
                **_mounting(x, y, z, math.degrees(math.atan2(forward[1], forward[0]))),
                'width': width,
                'height': height,
                'fov': math.degrees(2 * math.atan(width / 2 / camera.raw_intrinsics[0])),
            }
        )
    return [
        *rig,
        {'type': 'sensor.lidar.ray_cast', 'id': LIDAR, **_mounting(z=calibration.lidar_height)},
        {'type': 'sensor.other.imu', 'id': IMU, **_mounting()},
        {'type': 'sensor.other.gnss', 'id': GNSS, **_mounting()},
        {'type': 'sensor.speedometer', 'id': SPEED, 'reading_frequency': 1 / TICK_SECONDS},
    ]


def _mounting(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> dict[str, float]:
    """Where a sensor is: meters and degrees in the ego frame."""
    return {'x': x, 'y': y, 'z': z, 'roll': 0.0, 'pitch': 0.0, 'yaw': yaw}


def without_distortion(calibration: Calibration) -> Calibration:
    """The same rig with pinhole cameras; their images after undistortion are as before."""
    cameras = (replace(camera, distortion=np.zeros(5)) for camera in calibration.cameras)
    return replace(calibration, cameras=tuple(cameras))


class CarlaInput:
    """Converts the plan of one route, and the buffers of its ticks.

    A map may have its origin at any latitude, while the calibration's meters per degree are those of the
    recordings at the equator. A degree of longitude is shorter by the cosine of the latitude, here that of
    the first node: 1e-3 of the distances at most within the largest map, and nothing at the equator.

    Args:
        calibration: Of the vehicle.
        plan: Positions in degrees (``lat``, ``lon``) and road options, as the leaderboard passes them to
            ``set_global_plan``.

    Attributes:
        route: The nodes of the plan. A road option that is none of ``RoadOption``, such as -1, remains as
            it is, as in the recordings, and means to follow the lane.

    Raises:
        ValueError: If the plan has no node.
    """

    def __init__(self, calibration: Calibration, plan: Sequence[tuple[Mapping[str, float], Any]]) -> None:
        if not plan:
            raise ValueError('the global plan has no node')
        self.calibration = calibration
        self._east_scale = math.cos(math.radians(plan[0][0]['lat']))
        self.route = [
            RouteNode(
                *self._north_east(position['lat'], position['lon']), int(getattr(option, 'value', option))
            )
            for position, option in plan
        ]

    def sensor_data(self, buffers: Mapping[str, tuple[int, Any]]) -> SensorData:
        """What the vehicle senses at one tick.

        A camera, the LiDAR or the IMU may be missing, which the agent answers; position and speed may not.

        Args:
            buffers: Frame number and data by sensor id. Cameras: (H, W, 4) uint8 BGRA; LiDAR: (P, 4)
                float32 x, y, z in meters from the sensor, and intensity; IMU: (7,), the compass last; GNSS:
                (3,) latitude and longitude in degrees, and altitude; speedometer: a dictionary.

        Raises:
            KeyError: If the position or the speed is missing.
        """
        images = {
            camera.name: np.ascontiguousarray(buffers[camera.rgb][1][:, :, 2::-1])
            for camera in self.calibration.cameras
            if camera.rgb in buffers
        }
        points = np.zeros((0, 4), dtype=np.float32)
        if LIDAR in buffers:
            points = np.array(buffers[LIDAR][1], dtype=np.float32)
            points[:, 2] += self.calibration.lidar_height
        latitude, longitude = buffers[GNSS][1][:2]
        return SensorData(
            images=images,
            points=points,
            position=self._north_east(latitude, longitude),
            compass=float(buffers[IMU][1][COMPASS]) if IMU in buffers else math.nan,
            speed=float(buffers[SPEED][1]['speed']),
        )

    def _north_east(self, latitude: float, longitude: float) -> tuple[float, float]:
        north, east = poses.gnss_to_north_east(
            latitude,
            longitude,
            self.calibration.north_per_degree,
            self.calibration.east_per_degree * self._east_scale,
        )
        return float(north), float(east)
