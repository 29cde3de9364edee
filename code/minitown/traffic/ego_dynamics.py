"""How the ego moves under throttle, steer and brake: a kinematic bicycle with linear pedals."""

import math
from dataclasses import dataclass

from thinktwice.geometry.bicycle import slip_angle, yaw_rate

STEP_SECONDS = 0.05
THROTTLE_GAIN = 4.0
BRAKE_GAIN = 8.0
DRAG = 0.15
"""Acceleration at full throttle and deceleration at full brake, m/s^2; deceleration per m/s of speed, 1/s."""
EGO_HALF = (2.45, 1.06, 0.75)
"""Half length, width and height of the ego, meters."""


@dataclass(frozen=True)
class Control:
    """Throttle 0..1, steer -1..1 (right positive), brake 0..1."""

    throttle: float = 0.0
    steer: float = 0.0
    brake: float = 0.0


@dataclass(frozen=True)
class EgoState:
    """State of the ego.

    Attributes:
        x, y: World position, meters.
        yaw: Radians.
        speed: Forward, m/s.
        acceleration: Forward, m/s^2.
        yaw_rate: rad/s.
    """

    x: float
    y: float
    yaw: float
    speed: float
    acceleration: float = 0.0
    yaw_rate: float = 0.0

    @property
    def pose(self) -> tuple[float, float, float]:
        """World x, y, yaw."""
        return self.x, self.y, self.yaw


def advance(state: EgoState, control: Control, seconds: float = STEP_SECONDS) -> EgoState:
    """Return the state after one step of `seconds`."""
    acceleration = THROTTLE_GAIN * control.throttle - BRAKE_GAIN * control.brake - DRAG * state.speed
    speed = max(0.0, state.speed + acceleration * seconds)
    mean_speed = 0.5 * (state.speed + speed)
    steer = max(-1.0, min(1.0, control.steer))
    turn_rate = yaw_rate(mean_speed, steer)
    course = state.yaw + slip_angle(steer) + 0.5 * turn_rate * seconds
    return EgoState(
        x=state.x + mean_speed * math.cos(course) * seconds,
        y=state.y + mean_speed * math.sin(course) * seconds,
        yaw=state.yaw + turn_rate * seconds,
        speed=speed,
        acceleration=(speed - state.speed) / seconds,
        yaw_rate=turn_rate,
    )


def pedals_for(acceleration: float, speed: float) -> float:
    """Return the pedal -1..1 (negative is brake) for `acceleration` m/s^2 at `speed` m/s."""
    force = acceleration + DRAG * speed
    pedal = force / THROTTLE_GAIN if force >= 0 else force / BRAKE_GAIN
    return max(-1.0, min(1.0, pedal))


def control_from(pedal: float, steer: float) -> Control:
    """Return the control of a pedal -1..1 (negative is brake) and a steer."""
    return Control(throttle=max(0.0, pedal), steer=steer, brake=max(0.0, -pedal))
