"""From predictions to vehicle control: mode of Beta distributions, direct control, PID control."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from numpy.typing import ArrayLike
from torch import Tensor


@dataclass(frozen=True)
class VehicleControl:
    """Control of one time step.

    Attributes:
        throttle: 0 to 1.
        steer: -1 (left) to 1 (right).
        brake: 0 to 1.
    """

    throttle: float
    steer: float
    brake: float


def beta_mode_action(
    alpha: Float[Tensor, '*shape'], beta: Float[Tensor, '*shape']
) -> Float[Tensor, '*shape']:
    """Mode of Beta distributions on [0, 1], scaled to an action in [-1, 1].

    If only one parameter is above 1, the mode is at a boundary; if none is, there is no unique mode,
    and the mean is used instead.
    """
    both_above = (alpha > 1) & (beta > 1)
    mode = (alpha - 1) / torch.where(both_above, alpha + beta - 2, torch.ones_like(alpha))
    mean = alpha / (alpha + beta).clamp(min=1e-5)
    at_end = (alpha > 1).to(alpha.dtype)  # 1 for beta <= 1 < alpha, 0 for alpha <= 1 < beta
    both_below = (alpha <= 1) & (beta <= 1)
    return 2 * torch.where(both_above, mode, torch.where(both_below, mean, at_end)) - 1


def direct_control(
    action: Sequence[float] | Shaped[np.ndarray, '2'] | Shaped[Tensor, '2'],
) -> VehicleControl:
    """Control from the action (acceleration, steer); negative acceleration is braking."""
    acceleration, steer = float(action[0]), float(action[1])
    return VehicleControl(
        throttle=min(max(acceleration, 0.0), 1.0),
        steer=min(max(steer, -1.0), 1.0),
        brake=min(max(-acceleration, 0.0), 1.0),
    )


class PIDController:
    """PID controller over a sliding window of errors.

    Args:
        proportional: Gain of the current error.
        integral: Gain of the mean error of the window.
        derivative: Gain of the change since the last step.
        window: Number of errors in the window, initially zero.
    """

    def __init__(self, proportional: float, integral: float, derivative: float, window: int) -> None:
        self.proportional = proportional
        self.integral = integral
        self.derivative = derivative
        self.window = window
        self.reset()

    def reset(self) -> None:
        """Reset all errors to zero."""
        self._errors: deque[float] = deque([0.0] * self.window, maxlen=self.window)

    def step(self, error: float) -> float:
        """Output for the current error."""
        change = error - self._errors[-1]
        self._errors.append(error)
        mean = sum(self._errors) / len(self._errors)
        return self.proportional * error + self.integral * mean + self.derivative * change


class WaypointController:
    """Follow predicted waypoints with one PID controller for the steering and one for the speed.

    Args:
        turn_gains: Proportional, integral and derivative gain of the steering.
        speed_gains: Proportional, integral and derivative gain of the speed.
        window: Number of errors in the window of both controllers.
        step_time: Time between waypoints, seconds.
        aim_distance: Distance of the point that the steering aims at, meters.
        brake_speed: Desired speed below which the vehicle brakes, m/s.
        brake_ratio: Ratio of speed to desired speed above which the vehicle brakes.
        max_speed_error: The speed error is clamped to this, m/s.
        target_angle: Angle between target point and end of the plan, in quarter turns, above which the
            target point is followed instead of the plan.
        target_distance: The target point is followed only if its x is below this, meters.
        min_speed: Speed below which the vehicle counts as standing and does not steer, m/s.
    """

    def __init__(
        self,
        turn_gains: tuple[float, float, float] = (0.75, 0.75, 0.3),
        speed_gains: tuple[float, float, float] = (5.0, 0.5, 1.0),
        window: int = 40,
        step_time: float = 0.5,
        aim_distance: float = 4.0,
        brake_speed: float = 0.4,
        brake_ratio: float = 1.1,
        max_speed_error: float = 0.25,
        target_angle: float = 0.3,
        target_distance: float = 10.0,
        min_speed: float = 0.01,
    ) -> None:
        self.turn = PIDController(*turn_gains, window)
        self.speed = PIDController(*speed_gains, window)
        self.step_time = step_time
        self.aim_distance = aim_distance
        self.brake_speed = brake_speed
        self.brake_ratio = brake_ratio
        self.max_speed_error = max_speed_error
        self.target_angle = target_angle
        self.target_distance = target_distance
        self.min_speed = min_speed

    def reset(self) -> None:
        """Reset the errors of both controllers."""
        self.turn.reset()
        self.speed.reset()

    def step(
        self, waypoints: ArrayLike, speed: float, target_point: ArrayLike, desired_speed: float | None = None
    ) -> VehicleControl:
        """Control of the current step.

        Args:
            waypoints: (K, 2) x, y in the ego frame, meters, K at least 2.
            speed: m/s.
            target_point: (2,) x, y in the ego frame, meters.
            desired_speed: m/s, replaces the mean speed of the plan if positive.

        Raises:
            ValueError: If there are fewer than two waypoints.
        """
        plan = np.asarray(waypoints, dtype=np.float64)
        if len(plan) < 2:
            raise ValueError(f'waypoint control needs at least 2 waypoints, got {len(plan)}')
        if desired_speed is None or desired_speed <= 0:
            lengths = np.linalg.norm(np.diff(plan, axis=0), axis=1)
            desired_speed = float(lengths.mean()) / self.step_time

        angle = self.steering_angle(plan, np.asarray(target_point, dtype=np.float64))
        steer = self.turn.step(0.0 if speed < self.min_speed else angle)
        brake = desired_speed < self.brake_speed or speed > self.brake_ratio * desired_speed
        throttle = self.speed.step(min(max(desired_speed - speed, 0.0), self.max_speed_error))
        return VehicleControl(
            throttle=0.0 if brake else min(max(throttle, 0.0), 1.0),
            steer=min(max(steer, -1.0), 1.0),
            brake=float(brake),
        )

    def steering_angle(self, plan: Float64[np.ndarray, 'K 2'], target: Float64[np.ndarray, '2']) -> float:
        """Direction of the plan or of the target point in quarter turns, right positive."""
        angle = _quarter_turns(self._aim(plan))
        last_angle = _quarter_turns(plan[-1] - plan[-2])
        target_angle = _quarter_turns(target)
        turns_later = abs(target_angle - last_angle) > self.target_angle and target[0] < self.target_distance
        return target_angle if abs(target_angle) < abs(angle) or turns_later else angle

    def _aim(self, plan: Float64[np.ndarray, 'K 2']) -> Float64[np.ndarray, '2']:
        """The first waypoint of the segment whose midpoint is closest to the aim distance."""
        middles = np.linalg.norm((plan[1:] + plan[:-1]) / 2, axis=1)
        return plan[int(np.argmin(np.abs(self.aim_distance - middles)))]


def _quarter_turns(point: Float64[np.ndarray, '2']) -> float:
    """Angle of a vector in the ego frame: 0 straight ahead, 1 to the right."""
    return (90 - math.degrees(math.atan2(point[0], point[1]))) / 90
