"""Controllers: from a prediction to throttle, steer and brake, once per tick."""

from collections import deque
from typing import Any, Protocol

import numpy as np

from thinktwice.errors import ConfigError
from thinktwice.model_code.control import VehicleControl, WaypointController, direct_control

Prediction = dict[str, Any]

STUCK_SECONDS = 1.0
"""Time of standing after which the fused controller lets a vehicle go: 20 ticks of CARLA's leaderboard."""


class Controller(Protocol):
    """Interface of the controllers."""

    def reset(self) -> None:
        """Reset the state before a new drive."""

    def step(self, prediction: Prediction, speed: float, target_point: np.ndarray) -> VehicleControl:
        """Control of one tick.

        Args:
            prediction: of the model for this tick: ``waypoints`` (K, 2) ego meters and, from a model that
                predicts actions, ``action`` (2,).
            speed: m/s.
            target_point: (2,) ego meters.
        """


class BetaController:
    """The most likely action of the predicted Beta distributions."""

    def reset(self) -> None:
        """See :class:`Controller`."""

    def step(self, prediction: Prediction, speed: float, target_point: np.ndarray) -> VehicleControl:
        """See :class:`Controller`."""
        return direct_control(_action_of(prediction, 'beta'))


class WaypointPIDController:
    """PID control of the predicted waypoints.

    Args:
        follower: controller of the waypoints.
    """

    def __init__(self, follower: WaypointController | None = None) -> None:
        self.follower = follower or WaypointController()

    def reset(self) -> None:
        """See :class:`Controller`."""
        self.follower.reset()

    def step(self, prediction: Prediction, speed: float, target_point: np.ndarray) -> VehicleControl:
        """See :class:`Controller`."""
        return self.follower.step(prediction['waypoints'], speed, target_point)


class FusedController:
    """Steering by the Beta action; the trajectory and the action decide together whether to go.

    A prediction without action is followed by PID control of its waypoints.

    The rules of the 2023 agent in CARLA (data specification, section 7.4): either of both may brake, the
    throttle is limited by speed and steering, and a vehicle that has stood for too long goes if either of
    both lets it.

    Args:
        follower: controller of the waypoints.
        stuck_ticks: ticks of standing above which the vehicle goes if it may.
    """

    MIN_BRAKE = 0.05
    """Brake of the trajectory below which it counts as none."""
    BRAKE = 0.2
    """Brake of either above which the vehicle brakes."""
    WEAK_BRAKE = 0.95
    """Brake of either below which it may go."""
    STANDING_SPEED = 0.5
    """m/s below which the vehicle stands."""
    TURNING_STEER = 0.07
    """Steering from which on the vehicle turns."""
    FAST = {True: 1.5, False: 3.5}
    """Speed in m/s, turning or not, above which the throttle is nearly closed."""
    THROTTLE = {True: 0.4, False: 0.6}
    """Largest throttle below that speed."""
    CLOSED_THROTTLE = 0.05

    def __init__(self, follower: WaypointController | None = None, stuck_ticks: int = 20) -> None:
        self.follower = follower or WaypointController()
        self.stuck_ticks = stuck_ticks
        self.standing_ticks = 0

    def reset(self) -> None:
        """See :class:`Controller`."""
        self.follower.reset()
        self.standing_ticks = 0

    def step(self, prediction: Prediction, speed: float, target_point: np.ndarray) -> VehicleControl:
        """See :class:`Controller`."""
        plan = self.follower.step(prediction['waypoints'], speed, target_point)
        if 'action' not in prediction:
            return plan
        action = direct_control(prediction['action'])
        plan_brake = 0.0 if plan.brake < self.MIN_BRAKE or plan.throttle > plan.brake else plan.brake
        brakes = max(plan_brake, action.brake) > self.BRAKE
        may_go = (
            plan.throttle > 0
            or action.throttle > 0
            or plan_brake < self.WEAK_BRAKE
            or action.brake < self.WEAK_BRAKE
        )
        if self.standing_ticks > self.stuck_ticks:
            brakes = not may_go
        if speed < self.STANDING_SPEED:
            self.standing_ticks += 1
        elif speed > self.STANDING_SPEED:
            self.standing_ticks = 0
        is_turning = abs(action.steer) > self.TURNING_STEER
        limit = self.CLOSED_THROTTLE if speed > self.FAST[is_turning] else self.THROTTLE[is_turning]
        return VehicleControl(0.0 if brakes else limit, action.steer, 1.0 if brakes else 0.0)


class SituationController:
    """Mean of the Beta action and of PID control of the waypoints, weighted by the situation.

    The fusion of TCP (Wu et al., 2022): the action has the larger weight while the vehicle turns, the
    trajectory elsewhere.

    Args:
        minor_weight: Weight of the other one, at most 0.5.
        turning_steer: Mean magnitude of the last steering above which the vehicle turns.
        window: Ticks of that mean.
        follower: Controller of the waypoints.
    """

    MIN_BRAKE = 0.5
    """Brake above which the throttle is closed."""

    def __init__(
        self,
        minor_weight: float = 0.3,
        turning_steer: float = 0.1,
        window: int = 10,
        follower: WaypointController | None = None,
    ) -> None:
        self.minor_weight = minor_weight
        self.turning_steer = turning_steer
        self.follower = follower or WaypointController()
        self._steers: deque[float] = deque(maxlen=window)

    def reset(self) -> None:
        """See :class:`Controller`."""
        self.follower.reset()
        self._steers.clear()

    def step(self, prediction: Prediction, speed: float, target_point: np.ndarray) -> VehicleControl:
        """See :class:`Controller`."""
        action = direct_control(_action_of(prediction, 'situation'))
        plan = self.follower.step(prediction['waypoints'], speed, target_point)
        is_turning = bool(self._steers) and float(np.mean(self._steers)) > self.turning_steer
        major, minor = (action, plan) if is_turning else (plan, action)
        throttle, steer, brake = (
            (1 - self.minor_weight) * getattr(major, name) + self.minor_weight * getattr(minor, name)
            for name in ('throttle', 'steer', 'brake')
        )
        self._steers.append(abs(steer))
        return VehicleControl(0.0 if brake > self.MIN_BRAKE else throttle, steer, brake)


def _action_of(prediction: Prediction, controller: str) -> Any:
    if 'action' not in prediction:
        raise ConfigError(
            f'controller {controller!r} needs an action, but the model predicts waypoints only: use '
            "'pid' or 'fused'"
        )
    return prediction['action']


CONTROLLERS = {
    'beta': BetaController,
    'pid': WaypointPIDController,
    'fused': FusedController,
    'situation': SituationController,
}
"""Controllers by their names on the command line."""


def make_controller(name: str, tick_seconds: float) -> Controller:
    """Make a controller for a vehicle.

    Args:
        name: key of ``CONTROLLERS``.
        tick_seconds: time between two ticks.

    Raises:
        ConfigError: there is no such controller.
    """
    if name not in CONTROLLERS:
        raise ConfigError(f'controller must be one of {", ".join(CONTROLLERS)}, got {name!r}')
    if name == 'fused':
        return FusedController(stuck_ticks=round(STUCK_SECONDS / tick_seconds))
    return CONTROLLERS[name]()
