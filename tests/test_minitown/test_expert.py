"""Controls of the expert, how they move the ego, and the labels made of them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from thinktwice.geometry.bicycle import steer_for
from thinktwice.minitown import Control, Drive
from thinktwice.minitown.expert.policy import Decision, is_hazard
from thinktwice.minitown.traffic.ego_dynamics import EgoState, advance, pedals_for


def test_one_step_of_the_ego_agrees_with_the_motion_model_of_the_closed_loop():
    state = advance(EgoState(100.0, 50.0, math.radians(30.0), 6.0), Control(throttle=0.225, steer=0.1))
    assert state.speed == pytest.approx(6.0)
    # The reference moves along the course at the step's beginning, this model along the one halfway.
    assert (state.x, state.y) == pytest.approx((100.253703, 50.160109), abs=2e-3)


@pytest.mark.parametrize('curvature', [-0.1, 0.03, 0.13])
def test_steer_for_a_curvature_drives_a_circle_of_that_curvature(curvature):
    state, steer = EgoState(0.0, 0.0, 0.0, 4.0), steer_for(curvature)
    places = []
    for _ in range(200):
        rear = 1.4178275
        places.append((state.x - rear * math.cos(state.yaw), state.y - rear * math.sin(state.yaw)))
        state = advance(state, Control(throttle=0.15, steer=steer))
    places = np.array(places)
    middle = np.array([0.0 - 1.4178275, 1 / curvature])
    np.testing.assert_allclose(np.hypot(*(places - middle).T), abs(1 / curvature), rtol=2e-3)


@pytest.mark.parametrize('target', [-4.0, -0.5, 0.0, 1.5])
def test_pedals_give_the_target_acceleration(target):
    pedal = pedals_for(target, 5.0)
    state = advance(EgoState(0, 0, 0, 5.0), Control(max(pedal, 0.0), 0.0, max(-pedal, 0.0)))
    assert state.acceleration == pytest.approx(target)


def point_estimate(alpha: float, beta: float) -> float:
    """The control of a Beta distribution as the paper's agent takes it, u in [0, 1]."""
    if alpha > 1 and beta > 1:
        return (alpha - 1) / (alpha + beta - 2)
    if alpha <= 1 < beta:
        return 0.0
    if beta <= 1 < alpha:
        return 1.0
    return alpha / (alpha + beta)


@pytest.mark.parametrize('pedal', [-1.0, -0.3, 0.0, 0.8, 1.0])
def test_mode_of_the_action_distribution_is_the_wanted_control(pedal):
    decision = Decision(pedal, -0.25, False, Control(), 0.0)
    alpha, beta = decision.alpha.tolist(), decision.beta.tolist()
    assert min(alpha + beta) > 0
    assert 2 * point_estimate(alpha[0], beta[0]) - 1 == pytest.approx(pedal, abs=1e-6)
    assert 2 * point_estimate(alpha[1], beta[1]) - 1 == pytest.approx(-0.25, abs=1e-6)


WAY = np.array([[2.5 + 0.5 * step, 0.0] for step in range(4)])
MOVING = EgoState(0.0, 0.0, 0.0, 5.0)


@pytest.mark.parametrize(
    ('actor', 'state', 'expected'),
    [
        ((4.0, 0.5, 0.0, 0.3, 0.3), MOVING, True),
        ((4.0, 3.0, 0.0, 0.3, 0.3), MOVING, False),
        ((12.0, 0.0, 0.0, 0.3, 0.3), MOVING, False),
        ((-4.0, 0.0, 0.0, 2.0, 0.9), MOVING, False),
        ((4.0, 3.0, math.pi / 2, 2.2, 0.9), MOVING, True),
        ((4.0, 3.0, 0.0, 2.2, 0.9), MOVING, False),
        ((4.0, 0.5, 0.0, 0.3, 0.3), EgoState(0.0, 0.0, 0.0, 0.0), False),
    ],
)
def test_hazard_rule(actor, state, expected):
    assert is_hazard(state, WAY, np.array([actor])) is expected


def test_a_pedestrian_who_appears_in_front_makes_the_expert_brake_fully():
    drive = Drive('town01_00', 4, 0)
    while drive.ego.speed < 4.0 or drive.steps % 2:
        drive.step()
    x, y = drive.route.position(drive.along + 5.0)
    pedestrians = drive.crowd.pedestrians
    place = next(place for place, pedestrian in enumerate(pedestrians) if pedestrian.crosswalk < 0)
    ends = {'start': np.array([x, y]), 'end': np.array([x + 1e-3, y])}
    pedestrians[place] = replace(pedestrians[place], **ends, along=0.0, speed=0.0)
    drive.step()
    drive.step()
    decision = drive.decision
    assert decision.hazard
    assert (decision.control.throttle, decision.control.brake) == (0.0, 1.0)
    assert decision.control.steer == pytest.approx(0.5 * decision.steer)
    assert drive.measurements()['should_brake'] is True
