"""First guess of plan, speed and value from the flattened scene."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.interfaces import ACTION_DIM, WAYPOINT_DIM
from thinktwice.model_code.dense_heads.layers import in_float32, mlp
from thinktwice.registry import MODELS


@dataclass(frozen=True)
class CoarsePrediction:
    """Output of :class:`CoarseHead`.

    Attributes:
        speed: (B, 1) in the unit of the encoded speed.
        value_traj: (B, 1) return expected by the trajectory branch.
        value_ctrl: (B, 1) return expected by the control branch.
        features_traj: (B, C) of the trajectory branch, distilled from the teacher.
        features_ctrl: (B, C) of the control branch, distilled from the teacher.
        waypoints: (B, K, 2) ego meters.
        controls: (B, K, 4) alpha then beta of (acceleration, steer) before the softplus.
    """

    speed: Tensor
    value_traj: Tensor
    value_ctrl: Tensor
    features_traj: Tensor
    features_ctrl: Tensor
    waypoints: Tensor
    controls: Tensor


@MODELS.register_module()
class CoarseHead(nn.Module):
    """Two branches, trajectory and control, over the same scene vector (the paper's coarse stage).

    Args:
        vector_channels: width Cv of the BEV vector.
        measurement_channels: width Cm of the encoded measurements.
        num_steps: future steps K.
        feature_channels: width C of the teacher's feature, which both branches imitate.
        hidden_channels: width of the hidden layers.
    """

    def __init__(
        self,
        vector_channels: int = 256,
        measurement_channels: int = 128,
        num_steps: int = 4,
        feature_channels: int = 256,
        hidden_channels: int = 512,
    ) -> None:
        super().__init__()
        self.num_steps = num_steps
        joint = vector_channels + measurement_channels
        self.speed_branch = mlp(vector_channels, vector_channels, vector_channels, 1)
        self.join_traj = mlp(joint, hidden_channels, hidden_channels, feature_channels, final_activation=True)
        self.value_branch_traj = mlp(feature_channels, feature_channels, feature_channels, 1)
        self.output_traj = mlp(feature_channels, hidden_channels, num_steps * WAYPOINT_DIM)
        self.join_ctrl = mlp(joint, hidden_channels, hidden_channels, feature_channels, final_activation=True)
        self.value_branch_ctrl = mlp(feature_channels, feature_channels, feature_channels, 1)
        self.policy_head = mlp(feature_channels, hidden_channels, hidden_channels, final_activation=True)
        self.alpha_head = mlp(hidden_channels, hidden_channels, num_steps * ACTION_DIM)
        self.beta_head = mlp(hidden_channels, hidden_channels, num_steps * ACTION_DIM)

    def forward(self, bev_vector: Tensor, measurement: Tensor) -> CoarsePrediction:
        """Predict from the BEV vector (B, Cv) and the encoded measurements (B, Cm)."""
        joint = torch.cat([bev_vector, measurement], dim=1)
        features_traj = self.join_traj(joint)
        features_ctrl = self.join_ctrl(joint)
        policy = self.policy_head(features_ctrl)
        alpha = in_float32(self.alpha_head, policy).view(-1, self.num_steps, ACTION_DIM)
        beta = in_float32(self.beta_head, policy).view(-1, self.num_steps, ACTION_DIM)
        return CoarsePrediction(
            speed=in_float32(self.speed_branch, bev_vector),
            value_traj=in_float32(self.value_branch_traj, features_traj),
            value_ctrl=in_float32(self.value_branch_ctrl, features_ctrl),
            features_traj=features_traj,
            features_ctrl=features_ctrl,
            waypoints=in_float32(self.output_traj, features_traj).view(-1, self.num_steps, WAYPOINT_DIM),
            controls=torch.cat([alpha, beta], dim=-1),
        )
