"""The bicycle model against the geometry of its axles."""

import math

import pytest

from thinktwice.geometry.bicycle import FRONT_AXLE, REAR_AXLE, WHEEL_ANGLE, slip_angle, steer_for, yaw_rate


@pytest.mark.parametrize('steer', [-1.0, -0.3, 0.2, 1.0])
def test_both_wheels_roll_along_their_own_direction(steer: float) -> None:
    # Velocities of points of a rigid body: no wheel may slide sideways.
    speed, slip, rate = 5.0, slip_angle(steer), yaw_rate(5.0, steer)
    forward, right = speed * math.cos(slip), speed * math.sin(slip)
    assert right - rate * REAR_AXLE == pytest.approx(0.0, abs=1e-12)
    assert math.atan2(right + rate * FRONT_AXLE, forward) == pytest.approx(WHEEL_ANGLE * steer)


def test_straight_steer_neither_slips_nor_turns() -> None:
    assert slip_angle(0.0) == yaw_rate(5.0, 0.0) == 0.0


@pytest.mark.parametrize('curvature', [-0.2, 0.01, 0.15])
def test_steer_for_a_curvature_turns_the_rear_axle_on_it(curvature: float) -> None:
    steer = steer_for(curvature)
    rear_speed = 5.0 * math.cos(slip_angle(steer))
    assert yaw_rate(5.0, steer) / rear_speed == pytest.approx(curvature)
