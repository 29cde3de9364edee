"""Poses as the 2023 code read them (docs/reference_quirks, Q17)."""

import math
from typing import Any

import numpy as np

from thinktwice.datasets.pipelines.measurements import LoadMeasurements, LoadWaypoints
from thinktwice.datasets.storage import RouteReader
from thinktwice.geometry import poses
from thinktwice.registry import TRANSFORMS


def read_pose_facing_north(reader: RouteReader, frame: int) -> tuple[dict[str, Any], np.ndarray]:
    """Read the measurements of a frame and its pose; a missing heading becomes north (Q17).

    North, a yaw of -90 degrees, is arbitrary: waypoints, target point and history of such a sample
    are rotated by the true heading of the vehicle.

    Args:
        reader: Reader of the route.
        frame: Frame number.

    Returns:
        The measurements and (3,) world x, y in meters and yaw in radians.

    Raises:
        SampleReadError: If the file can't be read.
    """
    values = reader.measurements(frame)
    theta = 0.0 if math.isnan(values['theta']) else values['theta']
    position = poses.north_east_to_world(values['x'], values['y'])
    return values, np.array([*position, poses.compass_to_yaw(theta)])


@TRANSFORMS.register_module()
class ReferenceLoadMeasurements(LoadMeasurements):
    """Load measurements as the 2023 code did; keys as in :class:`LoadMeasurements`."""

    read_pose = staticmethod(read_pose_facing_north)


@TRANSFORMS.register_module()
class ReferenceLoadWaypoints(LoadWaypoints):
    """Load waypoints as the 2023 code did; keys as in :class:`LoadWaypoints`."""

    read_pose = staticmethod(read_pose_facing_north)
