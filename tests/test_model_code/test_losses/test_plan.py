import pytest
import torch
from torch.distributions import Beta, kl_divergence

from thinktwice.errors import ConfigError
from thinktwice.model_code.losses import ActionLoss, PlanOffsets, SpeedLoss, WaypointLoss


def predictions(B=2, stages=3, K=4):
    return {
        'pred_alpha': 0.5 + torch.rand(B, stages, K, 2),
        'pred_beta': 0.5 + torch.rand(B, stages, K, 2),
        'pred_waypoints': 3 * torch.randn(B, stages, K, 2),
        'pred_speed': torch.randn(B, 1),
    }


def targets(B=2, K=4):
    return {
        'action_alpha': 1 + torch.rand(B, 2),
        'action_beta': 1 + torch.rand(B, 2),
        'future_action_alpha': 1 + torch.rand(B, K - 1, 2),
        'future_action_beta': 1 + torch.rand(B, K - 1, 2),
        'waypoints': 3 * torch.randn(B, K, 2),
        'speed': 10 * torch.rand(B),
    }


def mean_kl(predicted, expert, stages, steps):
    """Mean over samples, the given stages and steps, and both actions, by a loop."""
    alpha = torch.cat([expert['action_alpha'][:, None], expert['future_action_alpha']], dim=1)
    beta = torch.cat([expert['action_beta'][:, None], expert['future_action_beta']], dim=1)
    values = [
        kl_divergence(
            Beta(alpha[:, k], beta[:, k]),
            Beta(predicted['pred_alpha'][:, s, k], predicted['pred_beta'][:, s, k]),
        )
        for s in stages
        for k in steps
    ]
    return torch.stack(values).mean()


def test_action_loss_compares_each_step_of_all_stages() -> None:
    predicted, expert = predictions(), targets()
    losses = ActionLoss(weight=15, future_weight=3.75)(predicted, expert)
    torch.testing.assert_close(losses['action_loss'], 15 * mean_kl(predicted, expert, range(3), [0]))
    torch.testing.assert_close(
        losses['future_action_loss'], 3.75 * mean_kl(predicted, expert, range(3), [1, 2, 3])
    )


def test_action_loss_of_a_single_step_has_no_future() -> None:
    assert list(ActionLoss(1, 1)(predictions(K=1), targets(K=1))) == ['action_loss']


def test_action_targets_of_zero_stay_finite() -> None:
    expert = targets()
    expert['action_alpha'][0] = 0
    expert['future_action_beta'][1, 0] = 0
    predicted = {name: value.requires_grad_() for name, value in predictions().items()}
    losses = ActionLoss(1, 1)(predicted, expert)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert predicted['pred_alpha'].grad.isfinite().all()


def test_waypoint_loss_counts_all_stages() -> None:
    predicted, expert = predictions(), targets()
    error = predicted['pred_waypoints'] - expert['waypoints'][:, None]
    elements = torch.where(error.abs() < 1, 0.5 * error.square(), error.abs() - 0.5)
    torch.testing.assert_close(WaypointLoss(weight=15)(predicted, expert)['wp_loss'], 15 * elements.mean())


def test_waypoint_loss_is_linear_from_beta_on() -> None:
    expert = {'waypoints': torch.zeros(1, 2, 2)}
    predicted = {'pred_waypoints': torch.tensor([0.05, -0.1, 0.5, -2.0]).view(1, 1, 2, 2)}
    loss = WaypointLoss(weight=2, beta=0.1)(predicted, expert)['wp_loss']
    assert loss.item() == pytest.approx(2 * (0.05**2 / 0.2 + 0.05 + 0.45 + 1.95) / 4)


@pytest.mark.parametrize('beta', [0.0, -1.0, float('nan')])
def test_a_beta_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match=f'beta={beta}'):
        WaypointLoss(weight=1, beta=beta)


def test_speed_loss_scales_the_measured_speed() -> None:
    predicted = {'pred_speed': torch.tensor([[0.5], [1.0]])}
    loss = SpeedLoss(weight=2, speed_scale=12)(predicted, {'speed': torch.tensor([6.0, 24.0])})['speed_loss']
    assert loss.item() == pytest.approx(2 * (0 + 0.5) / 2)


@pytest.mark.parametrize('speed_scale', [0.0, -12.0, float('nan')])
def test_a_unit_of_speed_that_is_not_positive_is_refused(speed_scale: float) -> None:
    with pytest.raises(ConfigError, match=f'speed_scale={speed_scale}'):
        SpeedLoss(weight=1, speed_scale=speed_scale)


def test_a_batch_is_the_mean_of_its_halves() -> None:
    predicted, expert = predictions(B=4), targets(B=4)
    for loss in (ActionLoss(1, 1), WaypointLoss(1), SpeedLoss(1, 12.0), PlanOffsets()):
        whole = loss(predicted, expert)
        halves = [
            loss({k: v[part] for k, v in predicted.items()}, {k: v[part] for k, v in expert.items()})
            for part in (slice(0, 2), slice(2, 4))
        ]
        for name, value in whole.items():
            torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2)


def test_offsets_measure_the_last_stage_and_are_no_loss() -> None:
    predicted, expert = predictions(), targets()
    predicted['pred_alpha'][:, -1, 0] = torch.tensor([3.0, 2.0])  # modes 2/3 and 1/2
    predicted['pred_beta'][:, -1, 0] = 2.0
    expert['action_alpha'][:] = torch.tensor([2.0, 0.5])  # modes 1/2 and 0
    expert['action_beta'][:] = 2.0
    predicted['pred_waypoints'].requires_grad_()
    metrics = PlanOffsets()(predicted, expert)
    assert metrics['current_throttle_brake_offset'].item() == pytest.approx(1 / 3)
    assert metrics['current_steer_offset'].item() == pytest.approx(1.0)
    difference = (predicted['pred_waypoints'][:, -1] - expert['waypoints']).abs().detach()
    torch.testing.assert_close(metrics['longitudinal_offset'], difference[..., 0].mean())
    torch.testing.assert_close(metrics['lateral_offset'], difference[..., 1].mean())
    assert not any('loss' in name for name in metrics)
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize('loss', [WaypointLoss(1.0), ActionLoss(1.0, 1.0)])
@pytest.mark.parametrize('steps', [1, 3, 6])
def test_a_plan_of_another_number_of_steps_than_recorded_is_refused(loss, steps) -> None:
    with pytest.raises(ConfigError, match=f'hold 4 future steps, but the planner predicts {steps}'):
        loss(predictions(K=steps), targets(K=4))
