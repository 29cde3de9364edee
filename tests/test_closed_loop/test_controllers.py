import numpy as np
import pytest
import torch

from thinktwice.closed_loop.controllers import (
    BetaController,
    FusedController,
    SituationController,
    WaypointPIDController,
    make_controller,
)
from thinktwice.errors import ConfigError
from thinktwice.model_code.control import VehicleControl, WaypointController

TARGET = np.array([20.0, 6.0])


def prediction(acceleration: float, steer: float = 0.0) -> dict:
    return {'action': torch.tensor([acceleration, steer]), 'waypoints': torch.zeros(4, 2)}


class FixedFollower(WaypointController):
    """Gives a fixed control in place of PID."""

    def __init__(self, throttle: float, brake: float) -> None:
        super().__init__()
        self.control = VehicleControl(throttle, 0.3, brake)

    def step(self, *_: object, **__: object) -> VehicleControl:
        return self.control


def test_beta_controller_gives_the_action() -> None:
    control = BetaController().step(prediction(-0.4, 0.25), 3.0, TARGET)
    assert (control.throttle, control.steer, control.brake) == pytest.approx((0.0, 0.25, 0.4))


def test_waypoint_controller_follows_the_plan_and_forgets_on_reset() -> None:
    plan = {'waypoints': np.array([[2.0, 0.1], [4.0, 0.4], [6.0, 0.9], [8.0, 1.6]]), 'action': None}
    controller, direct = WaypointPIDController(), WaypointController()
    expected = [direct.step(plan['waypoints'], 3.0, TARGET) for _ in range(3)]
    assert [controller.step(plan, 3.0, TARGET) for _ in range(3)] == expected
    assert expected[0] != expected[2]
    controller.reset()
    assert controller.step(plan, 3.0, TARGET) == expected[0]


@pytest.mark.parametrize(
    ('throttle', 'brake', 'acceleration', 'brakes'),
    [
        (0.5, 0.0, 0.5, False),
        (0.0, 1.0, 0.5, True),  # the trajectory brakes
        (0.5, 0.0, -0.3, True),  # the action brakes
        (0.5, 0.0, -0.1, False),  # not enough
        (0.9, 0.8, 0.5, False),  # a throttle above the brake takes the brake away
        (0.0, 0.04, 0.5, False),
    ],
)
def test_either_may_brake(throttle: float, brake: float, acceleration: float, brakes: bool) -> None:
    control = FusedController(FixedFollower(throttle, brake)).step(prediction(acceleration), 3.0, TARGET)
    assert (control.throttle, control.brake) == ((0.0, 1.0) if brakes else (0.6, 0.0))


@pytest.mark.parametrize(
    ('speed', 'steer', 'limit'),
    [(1.4, 0.1, 0.4), (1.6, -0.1, 0.05), (1.6, 0.06, 0.6), (3.4, 0.0, 0.6), (3.6, 0.0, 0.05)],
)
def test_throttle_is_limited_by_speed_and_steering(speed: float, steer: float, limit: float) -> None:
    control = FusedController(FixedFollower(0.5, 0.0)).step(prediction(0.5, steer), speed, TARGET)
    assert control.throttle == limit
    assert control.steer == pytest.approx(steer)


def test_a_vehicle_that_stands_for_a_second_goes_if_anything_says_so() -> None:
    controller = FusedController(FixedFollower(0.0, 1.0))
    weak = [controller.step(prediction(-0.5), 0.0, TARGET).throttle for _ in range(23)]
    assert weak == [0.0] * 21 + [0.6] * 2  # tested before the count is updated: 21 ticks are above 20
    controller.step(prediction(-0.5), 0.5, TARGET)  # exactly 0.5 m/s: unchanged
    assert controller.standing_ticks == 23
    controller.step(prediction(-0.5), 0.6, TARGET)
    assert controller.standing_ticks == 0

    controller = FusedController(FixedFollower(0.0, 1.0))
    assert {controller.step(prediction(-1.0), 0.0, TARGET).brake for _ in range(40)} == {1.0}
    controller.reset()
    assert controller.standing_ticks == 0


@pytest.mark.parametrize('tick_seconds', [0.05, 0.1])
def test_the_time_of_standing_is_the_same_at_any_rate(tick_seconds: float) -> None:
    controller = make_controller('fused', tick_seconds)
    steps = round(1.0 / tick_seconds) + 2
    throttles = [controller.step(prediction(-0.5), 0.0, TARGET).throttle for _ in range(steps)]
    assert throttles == [0.0] * (steps - 1) + [0.6]
    with pytest.raises(ConfigError, match="beta, pid, fused, situation, got 'mpc'"):
        make_controller('mpc', tick_seconds)


def test_the_situation_decides_which_branch_has_the_larger_weight() -> None:
    controller = SituationController(minor_weight=0.25, window=2, follower=FixedFollower(0.8, 0.0))
    straight = controller.step(prediction(0.4, 0.0), 3.0, TARGET)
    assert (straight.throttle, straight.steer) == pytest.approx((0.75 * 0.8 + 0.25 * 0.4, 0.75 * 0.3))
    turning = controller.step(prediction(0.4, 0.5), 3.0, TARGET)  # it has been steering by more than 0.1
    assert (turning.throttle, turning.steer) == pytest.approx(
        (0.75 * 0.4 + 0.25 * 0.8, 0.75 * 0.5 + 0.25 * 0.3)
    )
    controller.reset()
    assert controller.step(prediction(0.4, 0.0), 3.0, TARGET) == straight


def test_waypoints_without_an_action_are_followed_or_refused() -> None:
    plan = {'waypoints': np.array([[2.0, 0.1], [4.0, 0.4], [6.0, 0.9], [8.0, 1.6]])}
    assert FusedController().step(plan, 3.0, TARGET) == WaypointPIDController().step(plan, 3.0, TARGET)
    for controller, name in ((BetaController(), 'beta'), (SituationController(), 'situation')):
        with pytest.raises(ConfigError, match=f"'{name}' needs an action"):
            controller.step(plan, 3.0, TARGET)
