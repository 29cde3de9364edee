"""Position from noisy GNSS: the mean of the last ticks, each moved along with the vehicle."""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

FRONT_AXLE = -0.090769015
REAR_AXLE = 1.4178275
"""Distances of the axles from the vehicle's origin in meters, as identified (the front one is negative)."""
WHEEL_ANGLE = 0.36848336
"""Wheel angle at full steer, radians."""


class SmoothedPosition:
    """Mean over a ring of positions (data specification, sections 7.1 and 7.2).

    After each control, every position of the ring moves as a kinematic bicycle does.

    Args:
        tick_seconds: time between two ticks.
        length: ticks that are averaged.
    """

    def __init__(self, tick_seconds: float, length: int = 100) -> None:
        self.tick_seconds = tick_seconds
        self._positions: deque[NDArray[np.float64]] = deque(maxlen=length)

    def update(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take in a position (2,) north and east in meters; returns the mean (2,)."""
        self._positions.append(np.array(position, dtype=np.float64))
        return np.mean(self._positions, axis=0)

    def advance(self, speed: float, yaw: float, steer: float) -> None:
        """Move all positions by one tick.

        Args:
            speed: m/s.
            yaw: heading in the world, radians.
            steer: -1 to 1, right positive.
        """
        wheel = WHEEL_ANGLE * steer
        course = yaw + math.atan(REAR_AXLE / (FRONT_AXLE + REAR_AXLE) * math.tan(wheel))
        step = speed * self.tick_seconds * np.array([-math.sin(course), math.cos(course)])  # north, east
        for position in self._positions:
            position += step
