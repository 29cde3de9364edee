"""The calibration that travels with a recording."""

from typing import Any

from thinktwice.minitown.expert.teacher_view import X_RANGE, Y_RANGE
from thinktwice.minitown.sensors.lidar import LIDAR_HEIGHT
from thinktwice.minitown.sensors.sensor_suite import Sensors

FRAME_INTERVAL = 0.5
"""Seconds between recorded frames."""
NORTH_PER_DEGREE = 111324.60662786
EAST_PER_DEGREE = 111319.490945
"""Meters per degree of latitude and longitude, as in the CARLA recordings."""


def make_calibration(sensors: Sensors) -> dict[str, Any]:
    """Return the content of a dataset's ``calibration.json``."""
    rig, lidar = sensors.rig, sensors.lidar
    intrinsics = [float(value) for value in rig.intrinsics]
    cameras = [
        {
            'name': camera.name,
            'rgb': f'rgb_{camera.name}',
            'depth': f'depth_{camera.name}',
            'seg': f'seg_{camera.name}',
            'raw_intrinsics': intrinsics,
            'distortion': [0.0] * 5,
            'intrinsics': intrinsics,
            'cam2ego': camera.cam2ego.tolist(),
            'depth_offset': 0.0,
        }
        for camera in rig.cameras
    ]
    return {
        'schema_version': 1,
        'frame_interval': FRAME_INTERVAL,
        'image_size': list(rig.size),
        'gnss': {'north_per_degree': NORTH_PER_DEGREE, 'east_per_degree': EAST_PER_DEGREE},
        'cameras': cameras,
        'lidar': {'height': LIDAR_HEIGHT, 'size': [lidar.channels, lidar.columns]},
        'bev': {'x': list(X_RANGE), 'y': list(Y_RANGE)},
    }
