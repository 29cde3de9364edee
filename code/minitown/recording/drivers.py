"""Drivers of the ego vehicle during recording: the expert, or one that leads it to states the expert avoids.

With any driver, the recorded actions are those of the expert in the state that was reached. Waypoints and
future maps are read from the frames that follow, so they are valid labels only where the expert drove alone
for the whole horizon: the recorder lists the other frames as ``disturbed_frames`` in the metadata, and no
sample has one in its future. A driver thus contributes the states in which the expert takes over, and the
history before them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from thinktwice.errors import ConfigError
from thinktwice.minitown.drive import Drive
from thinktwice.minitown.recording.calibration import FRAME_INTERVAL
from thinktwice.minitown.sensors.sensor_suite import Observation
from thinktwice.minitown.traffic.ego_dynamics import STEP_SECONDS, Control

DECISION_SECONDS = 0.1
STEPS_PER_DECISION = round(DECISION_SECONDS / STEP_SECONDS)
DECISIONS_PER_FRAME = round(FRAME_INTERVAL / DECISION_SECONDS)
BURST_DECISIONS = (5, 12)
TURN_FRAMES = (4, 10)
STOP_FRAMES = (2, 6)
"""Shortest and longest burst of wrong steering in decisions, turn at the wheel and stop in frames."""
MIN_BURST_SPEED = 1.0
"""Speed in m/s below which no burst begins: wrong steering would move the ego little."""
MAX_DEVIATION = 3.0
"""Distance from the route in meters at which the expert takes over."""


class Driver(Protocol):
    """Controls the ego of a recording, ten times per second."""

    def reset(self, drive: Drive, rng: np.random.Generator) -> None:
        """Begin a route.

        Args:
            drive: At its first frame.
            rng: For all decisions of this route.
        """

    def control(self, drive: Drive, observe: Callable[[], Observation]) -> Control | None:
        """Return the control for the next 0.1 s, or None to let the expert drive.

        Args:
            drive: At this moment.
            observe: Returns what the recording's sensors see at this moment.
        """


class Expert:
    """The expert alone."""

    def reset(self, drive: Drive, rng: np.random.Generator) -> None:
        """See `Driver`."""

    def control(self, drive: Drive, observe: Callable[[], Observation]) -> Control | None:
        """See `Driver`."""
        return None


class NoisyExpert:
    """The expert, who steers wrongly in bursts of 0.5 to 1.2 s, or brakes without a reason for up to 3 s.

    Without such stops the expert almost always stands because it has to, and a model learns that who stands
    goes on standing. A stop ends at a frame, which shows how the expert starts.

    Args:
        share: Probability that a burst or stop begins at a decision of 0.1 s while the ego moves.
        max_error: Bound of the steering error, which is constant within a burst.
        stop_share: Probability that it is a stop.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, share: float, max_error: float, stop_share: float = 0.0) -> None:
        if not (0.0 < share < 1.0 and 0.0 < max_error <= 1.0 and 0.0 <= stop_share <= 1.0):
            raise ConfigError(
                'noise takes a share within 0..1, a steering error up to 1 and a share of stops up to 1, got '
                f'{share}, {max_error} and {stop_share}'
            )
        self.share = share
        self.max_error = max_error
        self.stop_share = stop_share

    def reset(self, drive: Drive, rng: np.random.Generator) -> None:
        """See `Driver`."""
        self._rng, self._decisions, self._left, self._error = rng, 0, 0, 0.0
        self._stops = False

    def control(self, drive: Drive, observe: Callable[[], Observation]) -> Control | None:
        """See `Driver`."""
        if self._left == 0 and drive.ego.speed > MIN_BURST_SPEED and self._rng.random() < self.share:
            self._begin()
        self._decisions += 1
        if self._left == 0:
            return None
        self._left -= 1
        control = drive.decision.control
        if self._stops:
            return replace(control, throttle=0.0, brake=1.0)
        return replace(control, steer=min(max(control.steer + self._error, -1.0), 1.0))

    def _begin(self) -> None:
        self._stops = self.stop_share > 0.0 and bool(self._rng.random() < self.stop_share)
        if self._stops:
            frames = int(self._rng.integers(STOP_FRAMES[0], STOP_FRAMES[1] + 1))
            self._left = frames * DECISIONS_PER_FRAME - self._decisions % DECISIONS_PER_FRAME
        else:
            self._left = int(self._rng.integers(BURST_DECISIONS[0], BURST_DECISIONS[1] + 1))
            self._error = float(self._rng.uniform(-self.max_error, self.max_error))


class TakingTurns:
    """A driver and the expert take turns of 2 to 5 s, which begin at a frame (DAgger).

    If the driver leaves the route by more than 3 m, a turn of the expert begins at once. The driver is asked
    at every decision, also in the expert's turns, so that its history has no gap.

    Args:
        driver: The other one.
        expert_share: Probability that a turn is the expert's.

    Raises:
        ConfigError: The share is out of range.
    """

    def __init__(self, driver: Driver, expert_share: float) -> None:
        if not 0.0 < expert_share <= 1.0:
            raise ConfigError(f'the share of the expert must be above 0 and at most 1, got {expert_share}')
        self.driver = driver
        self.expert_share = expert_share

    def reset(self, drive: Drive, rng: np.random.Generator) -> None:
        """See `Driver`."""
        self._rng, self._left, self._is_expert = rng, 0, True
        self.driver.reset(drive, rng)

    def control(self, drive: Drive, observe: Callable[[], Observation]) -> Control | None:
        """See `Driver`."""
        control = self.driver.control(drive, observe)
        is_lost = not self._is_expert and drive.deviation > MAX_DEVIATION
        if self._left == 0 or is_lost:
            frames = int(self._rng.integers(TURN_FRAMES[0], TURN_FRAMES[1] + 1))
            # A turn that begins between two frames also lasts to a frame.
            self._left = frames * DECISIONS_PER_FRAME + self._left % DECISIONS_PER_FRAME
            self._is_expert = bool(self._rng.random() < self.expert_share) or is_lost
        self._left -= 1
        return None if self._is_expert else control
