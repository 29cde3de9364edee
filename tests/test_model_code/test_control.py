import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinktwice.model_code.control import PIDController, WaypointController, beta_mode_action, direct_control


def straight(speed, steps=4):
    """Waypoints of a car that keeps its lane and its speed, 0.5 s apart."""
    return np.array([[0.5 * speed * step, 0.0] for step in range(1, steps + 1)])


@pytest.mark.parametrize(
    ('alpha', 'beta', 'mode'),
    [(3.0, 2.0, 2 / 3), (2.0, 2.0, 0.5), (1.0, 1.5, 0.0), (0.5, 3.0, 0.0), (4.0, 1.0, 1.0), (0.6, 0.2, 0.75)]
    + [(1.0, 1.0, 0.5), (0.0, 0.0, 0.0)],
)
def test_action_is_the_mode_on_minus_one_to_one(alpha, beta, mode) -> None:
    action = beta_mode_action(torch.tensor(alpha), torch.tensor(beta))
    assert action.item() == pytest.approx(2 * mode - 1, abs=1e-6)


def test_the_mode_is_where_the_density_is_largest() -> None:
    alpha, beta = 1 + 5 * torch.rand(20, 1), 1 + 5 * torch.rand(20, 1)
    grid = torch.linspace(1e-4, 1 - 1e-4, 20001)
    density = torch.distributions.Beta(alpha, beta).log_prob(grid)
    expected = 2 * grid[density.argmax(-1)] - 1
    torch.testing.assert_close(beta_mode_action(alpha, beta)[:, 0], expected, atol=3e-4, rtol=0)


def test_mode_is_finite_and_has_finite_gradients_everywhere() -> None:
    values = torch.tensor([0.0, 0.5, 1.0, 1.0 + 1e-7, 2.0, 1e4])
    alpha, beta = (x.clone().requires_grad_() for x in torch.cartesian_prod(values, values).T)
    action = beta_mode_action(alpha, beta)
    action.sum().backward()
    assert action.isfinite().all() and alpha.grad.isfinite().all() and beta.grad.isfinite().all()


@pytest.mark.parametrize(
    ('action', 'throttle', 'steer', 'brake'),
    [((0.4, -0.2), 0.4, -0.2, 0), ((-0.7, 0.3), 0, 0.3, 0.7), ((1.5, 2.0), 1, 1, 0), ((-3, -3), 0, -1, 1)],
)
def test_direct_control_splits_the_acceleration(action, throttle, steer, brake) -> None:
    for given_action in (action, torch.tensor(action), np.array(action)):
        control = direct_control(given_action)
        values = (control.throttle, control.steer, control.brake)
        assert values == pytest.approx((throttle, steer, brake))
        assert all(type(value) is float for value in values)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_pid_is_error_mean_of_the_window_and_change(errors) -> None:
    controller = PIDController(2.0, 3.0, 5.0, window=4)
    for i, error in enumerate(errors):
        last_four = ([0.0] * 4 + errors[: i + 1])[-4:]
        expected = 2 * error + 3 * sum(last_four) / 4 + 5 * (error - (errors[i - 1] if i else 0.0))
        assert controller.step(error) == pytest.approx(expected, abs=1e-9)


def test_a_straight_plan_at_the_present_speed_goes_straight_without_braking() -> None:
    control = WaypointController().step(straight(6.0), 6.0, (30.0, 0.0))
    assert control.steer == pytest.approx(0) and control.brake == 0 and control.throttle == 0


def test_a_faster_plan_gives_throttle_and_a_slower_one_brakes() -> None:
    faster = WaypointController().step(straight(8.0), 6.0, (30.0, 0.0))
    # the speed error is held at 0.25: 5 * 0.25 + 0.5 * 0.25 / 40 + 1.0 * 0.25, clipped
    assert faster.throttle == 1.0 and faster.brake == 0
    a_little = WaypointController().step(straight(6.1), 6.0, (30.0, 0.0))
    assert a_little.throttle == pytest.approx(5 * 0.1 + 0.5 * 0.1 / 40 + 0.1)
    for speed, planned in ((6.0, 5.0), (0.0, 0.3)):
        control = WaypointController().step(straight(planned), speed, (30.0, 0.0))
        assert control.brake == 1 and control.throttle == 0


def test_a_positive_override_replaces_the_plan_s_speed() -> None:
    assert WaypointController().step(straight(8.0), 6.0, (30.0, 0.0), desired_speed=3.0).brake == 1
    assert WaypointController().step(straight(8.0), 6.0, (30.0, 0.0), desired_speed=0.0).brake == 0


def test_plans_to_the_right_steer_right() -> None:
    right = np.array([[2.0, 0.2], [4.0, 0.8], [6.0, 1.8], [8.0, 3.2]])
    target = (20.0, 12.0)
    assert WaypointController().step(right, 4.0, target).steer > 0
    assert WaypointController().step(right * [1, -1], 4.0, (20.0, -12.0)).steer < 0
    assert WaypointController().step(right, 0.0, target).steer == 0  # a standing car does not steer


def angle(point):
    """Quarter turns to the right, from the definition."""
    return (90 - math.degrees(math.atan2(point[0], point[1]))) / 90


def expected_angle(plan, target):
    """The rule for the steering angle, step by step."""
    best, aim = 1e5, plan[0]
    for i in range(len(plan) - 1):
        norm = math.hypot(*(plan[i + 1] + plan[i]) / 2)
        if abs(4.0 - norm) < abs(4.0 - best):
            best, aim = norm, plan[i]
    last = plan[-1] - plan[-2]
    use_target = abs(angle(target)) < abs(angle(aim))
    use_target = use_target or (abs(angle(target) - angle(last)) > 0.3 and target[0] < 10)
    return angle(target) if use_target else angle(aim)


def test_steering_angle_follows_the_rule_for_any_plan() -> None:
    controller, rng = WaypointController(), np.random.default_rng(0)
    from_target = 0
    for _ in range(300):
        plan = np.cumsum(rng.uniform([0, -1.5], [4, 1.5], size=(4, 2)), axis=0)
        target = rng.uniform([-5, -15], [30, 15])
        assert controller.steering_angle(plan, target) == pytest.approx(expected_angle(plan, target))
        from_target += controller.steering_angle(plan, target) == pytest.approx(angle(target))
    assert 30 < from_target < 270  # both branches are taken


def test_reset_forgets_the_drive() -> None:
    controller = WaypointController()
    plan, target = np.array([[2.0, 0.2], [4.0, 0.8], [6.0, 1.8], [8.0, 3.2]]), (20.0, 12.0)
    first = controller.step(plan, 4.0, target)
    assert controller.step(plan, 4.0, target) != first
    controller.reset()
    assert controller.step(plan, 4.0, target) == first


def test_one_waypoint_is_refused() -> None:
    with pytest.raises(ValueError, match='at least 2 waypoints, got 1'):
        WaypointController().step([[1.0, 0.0]], 1.0, (1.0, 0.0))
