"""From predictions to what the car is told: Beta mode, direct control, PID control of waypoints."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


@dataclass(frozen=True)
class VehicleControl:
    """Commands of one time step.

    Attributes:
        throttle: 0 to 1.
        steer: -1 (left) to 1 (right).
        brake: 0 to 1.
    """

    throttle: float
    steer: float
    brake: float


def beta_mode_action(alpha: Tensor, beta: Tensor) -> Tensor:
    """Most likely action in [-1, 1] of Beta distributions on [0, 1], any shape.

    A distribution with its mass at one end has its mode there; with both parameters at most 1
    there is no single mode, and the mean stands in.
    """
    both_above = (alpha > 1) & (beta > 1)
    mode = (alpha - 1) / torch.where(both_above, alpha + beta - 2, torch.ones_like(alpha))
    mean = alpha / (alpha + beta).clamp(min=1e-5)
    at_end = (alpha > 1).to(alpha.dtype)  # beta <= 1 < alpha: all at 1, alpha <= 1 < beta: all at 0
    both_below = (alpha <= 1) & (beta <= 1)
    return 2 * torch.where(both_above, mode, torch.where(both_below, mean, at_end)) - 1


def direct_control(action: Sequence[float] | Tensor) -> VehicleControl:
    """Control from the action (acceleration, steer); negative acceleration is braking."""
    acceleration, steer = float(action[0]), float(action[1])
    return VehicleControl(
        throttle=min(max(acceleration, 0.0), 1.0),
        steer=min(max(steer, -1.0), 1.0),
        brake=min(max(-acceleration, 0.0), 1.0),
    )


class PIDController:
    """PID control with the mean and the last difference of a window of errors.

    Args:
        proportional: factor of the error.
        integral: factor of the window's mean.
        derivative: factor of the change since the last step.
        window: errors remembered, at first all zero.
    """

    def __init__(self, proportional: float, integral: float, derivative: float, window: int) -> None:
        self.proportional = proportional
        self.integral = integral
        self.derivative = derivative
        self.window = window
        self.reset()

    def reset(self) -> None:
        """Forget all errors."""
        self._errors: deque[float] = deque([0.0] * self.window, maxlen=self.window)

    def step(self, error: float) -> float:
        """Output for the present error."""
        change = error - self._errors[-1]
        self._errors.append(error)
        mean = sum(self._errors) / len(self._errors)
        return self.proportional * error + self.integral * mean + self.derivative * change


class WaypointController:
    """Follow predicted waypoints with one PID for the steering and one for the speed.

    Args:
        turn_gains: proportional, integral and derivative factor of the steering.
        speed_gains: the same of the speed.
        window: errors that both remember.
        step_time: seconds between waypoints.
        aim_distance: meters ahead at which the steering aims.
        brake_speed: desired speed below which the car brakes [m/s].
        brake_ratio: speed over desired speed above which the car brakes.
        max_speed_error: largest speed error that the speed control sees [m/s].
        target_angle: change of direction after the plan, in quarter turns, above which the target
            point is followed instead of the plan.
        target_distance: meters ahead up to which the target point may be followed.
        min_speed: m/s below which the car counts as standing and does not steer.
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
        """Forget the errors of the drive so far."""
        self.turn.reset()
        self.speed.reset()

    def step(
        self, waypoints: ArrayLike, speed: float, target_point: ArrayLike, desired_speed: float | None = None
    ) -> VehicleControl:
        """Control for the present step.

        Args:
            waypoints: (K, 2) ego meters (x forward, y right), K at least 2.
            speed: m/s.
            target_point: (2,) ego meters.
            desired_speed: m/s to use instead of the plan's own, if positive.

        Raises:
            ValueError: if there are fewer than two waypoints.
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

    def steering_angle(self, plan: NDArray[np.float64], target: NDArray[np.float64]) -> float:
        """Direction to steer to in quarter turns, right positive: of the plan or of the target point."""
        angle = _quarter_turns(self._aim(plan))
        last_angle = _quarter_turns(plan[-1] - plan[-2])
        target_angle = _quarter_turns(target)
        turns_later = abs(target_angle - last_angle) > self.target_angle and target[0] < self.target_distance
        return target_angle if abs(target_angle) < abs(angle) or turns_later else angle

    def _aim(self, plan: NDArray[np.float64]) -> NDArray[np.float64]:
        """The waypoint that begins the stretch whose middle is closest to the aim distance."""
        middles = np.linalg.norm((plan[1:] + plan[:-1]) / 2, axis=1)
        return plan[int(np.argmin(np.abs(self.aim_distance - middles)))]


def _quarter_turns(point: NDArray[np.float64]) -> float:
    """Angle of an ego vector (x forward, y right): 0 straight ahead, 1 to the right."""
    return (90 - math.degrees(math.atan2(point[0], point[1]))) / 90
