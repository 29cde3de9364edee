"""The rule-based expert that drives the recordings.

Steering is pure pursuit on the route, speed comes from the same rules as the
traffic's, and a hazard rule brakes fully for people and cars right in front.
"""

import math
from dataclasses import dataclass

import numpy as np

from thinktwice.minitown.traffic.ego_dynamics import (
    EGO_HALF,
    REAR_AXLE,
    Control,
    EgoState,
    control_from,
    pedals_for,
    steer_for,
)
from thinktwice.minitown.traffic.route import Route

PEDAL_CERTAINTY = 12.0
STEER_CERTAINTY = 40.0
HOLD_BRAKE = -0.5
"""Pedal that keeps a standing car in its place."""
HAZARD_SPEED = 0.2
HAZARD_REACH = 20.0
HAZARD_SPACING = 0.5
HAZARD_MARGIN = 0.15
"""The hazard rule: least speed in m/s, then reach, spacing of points and room beside the ego in meters."""


@dataclass(frozen=True)
class Decision:
    """What the expert wants at one moment.

    Attributes:
        pedal: -1..1, negative brakes; `steer` -1..1. Both before the hazard rule.
        hazard: whether the hazard rule fired.
        control: what is sent, after the hazard rule.
        target_acceleration: m/s^2 the rules asked for.
    """

    pedal: float
    steer: float
    hazard: bool
    control: Control
    target_acceleration: float

    @property
    def alpha(self) -> np.ndarray:
        """First parameters (2,) of the Beta distributions of (pedal, steer), u = (control + 1) / 2."""
        certainty = np.array([PEDAL_CERTAINTY, STEER_CERTAINTY])
        return (1.0 + certainty * (np.array([self.pedal, self.steer]) + 1) / 2).astype(np.float32)

    @property
    def beta(self) -> np.ndarray:
        """Second parameters (2,); with `alpha`, the mode of u is the wanted control exactly."""
        certainty = np.array([PEDAL_CERTAINTY, STEER_CERTAINTY])
        return (1.0 + certainty * (1 - np.array([self.pedal, self.steer])) / 2).astype(np.float32)


def pure_pursuit(state: EgoState, route: Route, along: float) -> float:
    """Return the steer -1..1 that brings the rear axle to a point ahead on the route."""
    look_ahead = min(max(2.4 + 0.45 * state.speed, 3.0), 6.5)
    cos, sin = math.cos(state.yaw), math.sin(state.yaw)
    rear_x, rear_y = state.x - REAR_AXLE * cos, state.y - REAR_AXLE * sin
    goal_x, goal_y = route.position(along - REAR_AXLE + look_ahead)
    dx, dy = goal_x - rear_x, goal_y - rear_y
    side = -sin * dx + cos * dy
    return steer_for(2.0 * side / (dx * dx + dy * dy))


def is_hazard(state: EgoState, way: np.ndarray, actors: np.ndarray) -> bool:
    """Whether an actor's box is so near to the way ahead that only full braking is left.

    Args:
        state: of the ego.
        way: (M, 2) world points of the route just ahead of the ego's front.
        actors: (N, 5) x, y, yaw, half length, half width in the world.
    """
    if state.speed < HAZARD_SPEED or not len(actors):
        return False
    near = np.hypot(actors[:, 0] - state.x, actors[:, 1] - state.y) < HAZARD_REACH
    actors = actors[near]
    offset = way[None] - actors[:, None, :2]
    cos, sin = np.cos(actors[:, 2])[:, None], np.sin(actors[:, 2])[:, None]
    ahead = np.abs(cos * offset[..., 0] + sin * offset[..., 1]) - actors[:, 3:4]
    beside = np.abs(-sin * offset[..., 0] + cos * offset[..., 1]) - actors[:, 4:5]
    gap = np.hypot(np.maximum(ahead, 0.0), np.maximum(beside, 0.0))
    return bool((gap < EGO_HALF[1] + HAZARD_MARGIN).any())


def hazard_way(state: EgoState, route: Route, along: float) -> np.ndarray:
    """Return the (M, 2) world points that the ego's front passes before full braking stops it."""
    reach = 0.4 + 0.25 * state.speed + state.speed**2 / (2 * 7.0)
    # The corridor's round end adds its own half width, so points stop short of the reach.
    count = max(1, round((reach - EGO_HALF[1]) / HAZARD_SPACING) + 1)
    return route.ahead(along + EGO_HALF[0], count, HAZARD_SPACING)


def decide(
    state: EgoState,
    route: Route,
    along: float,
    target_acceleration: float,
    vehicles: np.ndarray,
    people: np.ndarray,
) -> Decision:
    """Return the expert's decision.

    Args:
        state: of the ego.
        route: to follow.
        along: the ego's place on it, meters.
        target_acceleration: from the traffic rules, m/s^2.
        vehicles: (V, 5) boxes of the other cars as in `is_hazard`.
        people: (P, 5) boxes of the people.
    """
    steer = pure_pursuit(state, route, along)
    pedal = pedals_for(target_acceleration, state.speed)
    if state.speed < 0.15 and target_acceleration < 0.3:
        pedal = HOLD_BRAKE
    hazard = is_hazard(state, hazard_way(state, route, along), np.concatenate([vehicles, people]))
    control = Control(0.0, 0.5 * steer, 1.0) if hazard else control_from(pedal, steer)
    return Decision(pedal, steer, hazard, control, target_acceleration)
