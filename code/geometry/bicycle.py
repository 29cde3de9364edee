"""The kinematic bicycle model of the ego vehicle, with the parameters fitted to CARLA's."""

import math

FRONT_AXLE = -0.090769015
REAR_AXLE = 1.4178275
"""Distances of the axles from the ego origin in meters, as fitted (the front one is negative)."""
WHEEL_ANGLE = 0.36848336
"""Wheel angle at steer 1, radians."""


def slip_angle(steer: float) -> float:
    """Return the angle from the ego's heading to its direction of motion, radians.

    Args:
        steer: -1..1, right positive.
    """
    return math.atan(REAR_AXLE / (FRONT_AXLE + REAR_AXLE) * math.tan(WHEEL_ANGLE * steer))


def yaw_rate(speed: float, steer: float) -> float:
    """Return the yaw rate in rad/s.

    Args:
        speed: m/s.
        steer: -1..1, right positive.
    """
    return speed / REAR_AXLE * math.sin(slip_angle(steer))


def steer_for(curvature: float) -> float:
    """Return the steer -1..1 that makes the rear axle follow `curvature` (1/m, right positive)."""
    wheel = math.atan((FRONT_AXLE + REAR_AXLE) * curvature)
    return max(-1.0, min(1.0, wheel / WHEEL_ANGLE))
