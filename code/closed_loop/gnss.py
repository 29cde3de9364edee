"""Position from noisy GNSS: the mean of the last ticks, each moved along with the vehicle."""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from thinktwice.geometry.bicycle import slip_angle


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
        course = yaw + slip_angle(steer)
        step = speed * self.tick_seconds * np.array([-math.sin(course), math.cos(course)])  # north, east
        for position in self._positions:
            position += step
