"""Coarse prediction of plan, speed and value from the BEV vector."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.interfaces import ACTION_DIM, WAYPOINT_DIM
from thinktwice.model_code.dense_heads.layers import in_float32, mlp
from thinktwice.registry import MODELS


@dataclass(frozen=True)
class CoarsePrediction:
    """Output of :class:`CoarseHead`.

    Attributes:
        speed: In units of the speed scale of the measurement encoder.
        value_traj: Expected return, predicted by the trajectory branch.
        value_ctrl: Expected return, predicted by the control branch.
        features_traj: Features of the trajectory branch, distilled from the teacher.
        features_ctrl: Features of the control branch, distilled from the teacher.
        waypoints: x, y in the ego frame, meters.
        controls: Alpha, then beta of (acceleration, steer) before the softplus.
    """

    speed: Float[Tensor, 'B 1']
    value_traj: Float[Tensor, 'B 1']
    value_ctrl: Float[Tensor, 'B 1']
    features_traj: Float[Tensor, 'B C']
    features_ctrl: Float[Tensor, 'B C']
    waypoints: Float[Tensor, 'B K 2']
    controls: Float[Tensor, 'B K 4']


@MODELS.register_module()
class CoarseHead(nn.Module):
    """A trajectory and a control branch over the BEV vector (the paper's coarse prediction).

    Args:
        vector_channels: Channels Cv of the BEV vector.
        measurement_channels: Channels Cm of the encoded measurements.
        num_steps: Future steps K.
        feature_channels: Channels C of the teacher's feature, which both branches are trained to predict.
        hidden_channels: Channels of the hidden layers.
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

    def forward(
        self, bev_vector: Float[Tensor, 'B Cv'], measurement: Float[Tensor, 'B Cm']
    ) -> CoarsePrediction:
        """Predict from the BEV vector and the encoded measurements."""
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
