"""The rule-based expert that drives the recordings.

It steers by pure pursuit on the route, accelerates by the same rules as the traffic, and
brakes fully for pedestrians and vehicles directly in front (the hazard rule).
"""

import math
from dataclasses import dataclass

import numpy as np

from thinktwice.geometry.bicycle import REAR_AXLE, steer_for
from thinktwice.geometry.poses import world_to_ego
from thinktwice.minitown.traffic.ego_dynamics import (
    EGO_HALF,
    Control,
    EgoState,
    control_from,
    pedals_for,
)
from thinktwice.minitown.traffic.route import Route

CONCENTRATION = np.array([12.0, 40.0])
"""alpha + beta - 2 of the Beta distributions of (pedal, steer)."""
HOLD_BRAKE = -0.5
"""Pedal that keeps a stopped ego in place."""
HAZARD_SPEED = 0.2
HAZARD_REACH = 20.0
HAZARD_SPACING = 0.5
HAZARD_MARGIN = 0.15
"""Hazard rule: minimum speed in m/s; range, spacing of route points and lateral margin in meters."""


@dataclass(frozen=True)
class Decision:
    """Output of the expert at one moment.

    Attributes:
        pedal: -1..1, negative is brake; before the hazard rule.
        steer: -1..1; before the hazard rule.
        hazard: Whether the hazard rule fired.
        control: After the hazard rule.
        target_acceleration: Desired acceleration by the traffic rules, m/s^2.
    """

    pedal: float
    steer: float
    hazard: bool
    control: Control
    target_acceleration: float

    @property
    def alpha(self) -> np.ndarray:
        """(2,) alpha of the Beta distributions of (pedal, steer), over u = (control + 1) / 2."""
        return (1.0 + CONCENTRATION * (np.array([self.pedal, self.steer]) + 1) / 2).astype(np.float32)

    @property
    def beta(self) -> np.ndarray:
        """(2,) beta of the same distributions, whose modes are exactly pedal and steer."""
        return (1.0 + CONCENTRATION * (1 - np.array([self.pedal, self.steer])) / 2).astype(np.float32)


def pure_pursuit(state: EgoState, route: Route, along: float) -> float:
    """Return the steer -1..1 that moves the rear axle to a point ahead on the route."""
    look_ahead = min(max(2.4 + 0.45 * state.speed, 3.0), 6.5)
    cos, sin = math.cos(state.yaw), math.sin(state.yaw)
    rear_x, rear_y = state.x - REAR_AXLE * cos, state.y - REAR_AXLE * sin
    goal_x, goal_y = route.position(along - REAR_AXLE + look_ahead)
    dx, dy = goal_x - rear_x, goal_y - rear_y
    lateral = -sin * dx + cos * dy
    return steer_for(2.0 * lateral / (dx * dx + dy * dy))


def is_hazard(state: EgoState, path: np.ndarray, actors: np.ndarray) -> bool:
    """Whether the bounding box of an actor is so close to the path ahead that the ego must brake fully.

    Args:
        state: Of the ego.
        path: (M, 2) world points of the route directly ahead of the ego's front.
        actors: (N, 5) x, y, yaw, half length, half width in the world.
    """
    if state.speed < HAZARD_SPEED:
        return False
    near = np.hypot(actors[:, 0] - state.x, actors[:, 1] - state.y) < HAZARD_REACH
    for actor in actors[near]:
        outside = np.maximum(np.abs(world_to_ego(path, actor[:3])) - actor[3:], 0.0)
        if (np.hypot(*outside.T) < EGO_HALF[1] + HAZARD_MARGIN).any():
            return True
    return False


def braking_path(state: EgoState, route: Route, along: float) -> np.ndarray:
    """Return the (M, 2) world points that the ego's front passes before it stops under full braking."""
    reach = 0.4 + 0.25 * state.speed + state.speed**2 / (2 * 7.0)
    # The end of the corridor is rounded with the ego's half width, so the points stop short of the reach.
    count = max(1, round((reach - EGO_HALF[1]) / HAZARD_SPACING) + 1)
    return route.ahead(along + EGO_HALF[0], count, HAZARD_SPACING)


def decide(
    state: EgoState,
    route: Route,
    along: float,
    target_acceleration: float,
    vehicles: np.ndarray,
    pedestrians: np.ndarray,
) -> Decision:
    """Return the expert's decision.

    Args:
        state: Of the ego.
        route: To follow.
        along: Distance of the ego along it, meters.
        target_acceleration: By the traffic rules, m/s^2.
        vehicles: (V, 5) boxes of the other vehicles, as in `is_hazard`.
        pedestrians: (P, 5) boxes of the pedestrians.
    """
    steer = pure_pursuit(state, route, along)
    pedal = pedals_for(target_acceleration, state.speed)
    if state.speed < 0.15 and target_acceleration < 0.3:
        pedal = HOLD_BRAKE
    hazard = is_hazard(state, braking_path(state, route, along), np.concatenate([vehicles, pedestrians]))
    control = Control(0.0, 0.5 * steer, 1.0) if hazard else control_from(pedal, steer)
    return Decision(pedal, steer, hazard, control, target_acceleration)
