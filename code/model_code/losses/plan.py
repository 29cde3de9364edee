"""Losses of the plan: actions, waypoints and speed, and metrics that are logged with them."""

import torch
from jaxtyping import Float
from torch import Tensor

from thinktwice.errors import ConfigError
from thinktwice.model_code.control import beta_mode_action
from thinktwice.model_code.losses.base import DrivingLoss, Losses, Predictions, Targets, beta_kl, smooth_l1
from thinktwice.registry import MODELS

MIN_BETA_TARGET = 1e-3  # recorded parameters are clamped: a Beta distribution needs positive ones


def action_kl(
    alpha: Float[Tensor, 'B stages *steps 2'],
    beta: Float[Tensor, 'B stages *steps 2'],
    target_alpha: Float[Tensor, 'B *steps 2'],
    target_beta: Float[Tensor, 'B *steps 2'],
) -> Float[Tensor, '']:
    """KL divergence of the predicted actions of all stages from the expert's, averaged over all elements."""
    target_alpha = target_alpha.float().clamp(min=MIN_BETA_TARGET).unsqueeze(1)
    target_beta = target_beta.float().clamp(min=MIN_BETA_TARGET).unsqueeze(1)
    return beta_kl(target_alpha, target_beta, alpha.float(), beta.float()).mean()


def _require_steps(plan: Float[Tensor, 'B stages K 2'], recorded: int) -> None:
    """Refuse a plan of another number of steps than recorded."""
    if plan.shape[2] != recorded:
        raise ConfigError(
            f'horizon: the targets hold {recorded} future steps, but the planner predicts {plan.shape[2]}: '
            'set horizon and num_steps of model.decoder to the same number'
        )


@MODELS.register_module()
class ActionLoss(DrivingLoss):
    """KL divergence of the Beta distributions of the actions of all stages.

    ``action_loss`` is that of the current step, ``future_action_loss`` that of the future steps.

    Args:
        weight: Weight of the current step.
        future_weight: Weight of the future steps.
    """

    target_keys = ('action_alpha', 'action_beta', 'future_action_alpha', 'future_action_beta')
    output_keys = ('pred_alpha', 'pred_beta')

    def __init__(self, weight: float, future_weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.future_weight = future_weight

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare pred_alpha, pred_beta (B, stages, K, 2) with the expert's actions."""
        alpha, beta = predictions['pred_alpha'], predictions['pred_beta']
        _require_steps(alpha, 1 + targets['future_action_alpha'].shape[1])
        now = action_kl(alpha[:, :, 0], beta[:, :, 0], targets['action_alpha'], targets['action_beta'])
        losses = {'action_loss': self.weight * now}
        if alpha.shape[2] > 1:
            future_targets = targets['future_action_alpha'], targets['future_action_beta']
            future = action_kl(alpha[:, :, 1:], beta[:, :, 1:], *future_targets)
            losses['future_action_loss'] = self.future_weight * future
        return losses


@MODELS.register_module()
class WaypointLoss(DrivingLoss):
    """Smooth L1 error of the waypoints of all stages, averaged over all elements: ``wp_loss``.

    Args:
        weight: Weight of the mean error in meters.
        beta: Errors below this are squared, meters. Below the paper's 1.0, small errors count for more.

    Raises:
        ConfigError: If ``beta`` is not above 0.
    """

    target_keys = ('waypoints',)
    output_keys = ('pred_waypoints',)

    def __init__(self, weight: float, beta: float = 1.0) -> None:
        super().__init__()
        if not beta > 0:
            raise ConfigError(f'beta={beta}: WaypointLoss needs a length above 0 m')
        self.weight = weight
        self.beta = beta

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare pred_waypoints (B, stages, K, 2) with waypoints (B, K, 2)."""
        _require_steps(predictions['pred_waypoints'], targets['waypoints'].shape[1])
        expert = targets['waypoints'].unsqueeze(1)
        error = smooth_l1(predictions['pred_waypoints'], expert, beta=self.beta)
        return {'wp_loss': self.weight * error}


@MODELS.register_module()
class SpeedLoss(DrivingLoss):
    """Smooth L1 error of the speed, averaged over samples: ``speed_loss``.

    Args:
        weight: Weight of the mean error.
        speed_scale: m/s per unit of the prediction, as in the measurement encoder.

    Raises:
        ConfigError: If ``speed_scale`` is not above 0.
    """

    target_keys = ('speed',)
    output_keys = ('pred_speed',)

    def __init__(self, weight: float, speed_scale: float) -> None:
        super().__init__()
        if not speed_scale > 0:
            raise ConfigError(f'speed_scale={speed_scale}: SpeedLoss needs a speed above 0 m/s')
        self.weight = weight
        self.speed_scale = speed_scale

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare pred_speed (B, 1) with speed (B,) in m/s."""
        target = targets['speed'].unsqueeze(1) / self.speed_scale
        return {'speed_loss': self.weight * smooth_l1(predictions['pred_speed'], target)}


@MODELS.register_module()
class PlanOffsets(DrivingLoss):
    """Errors of the last stage that are logged but not part of the objective.

    ``longitudinal_offset`` and ``lateral_offset`` are the mean absolute errors of x and y of the waypoints in
    meters. Where actions are predicted and recorded, ``current_throttle_brake_offset`` and
    ``current_steer_offset`` are those of the current action.
    """

    target_keys = ('waypoints',)
    output_keys = ('pred_waypoints',)

    @torch.no_grad()
    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compare the last of pred_waypoints (B, stages, K, 2), pred_alpha and pred_beta."""
        losses: Losses = {}
        if 'pred_alpha' in predictions and 'action_alpha' in targets:
            alpha, beta = (predictions[key][:, -1, 0].float() for key in ('pred_alpha', 'pred_beta'))
            target_action = beta_mode_action(targets['action_alpha'].float(), targets['action_beta'].float())
            action_offset = (beta_mode_action(alpha, beta) - target_action).abs().mean(0)
            losses['current_throttle_brake_offset'] = action_offset[0]
            losses['current_steer_offset'] = action_offset[1]
        plan_offset = (predictions['pred_waypoints'][:, -1].float() - targets['waypoints']).abs().mean((0, 1))
        return {**losses, 'longitudinal_offset': plan_offset[0], 'lateral_offset': plan_offset[1]}
