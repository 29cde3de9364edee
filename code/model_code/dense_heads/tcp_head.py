"""Trajectory and control branches of TCP (Wu et al., "Trajectory-guided Control Prediction", 2022)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.interfaces import ACTION_DIM, MIN_BETA_PARAMETER, Planner
from thinktwice.model_code.dense_heads.layers import in_float32, mlp
from thinktwice.model_code.dense_heads.waypoint_gru import WaypointGRU
from thinktwice.model_code.scene import Measurements, SceneFeatures
from thinktwice.registry import MODELS


@MODELS.register_module()
class TCPHead(Planner):
    """Waypoints, and actions of several steps that are guided by them.

    The trajectory branch is a GRU over waypoints, led to the target point. The control branch predicts the
    current action, and those of later steps with a GRU of its own in place of a simulation. At each step
    it attends to the image where the states of both branches say; at the first, where the measurements say.

    The paper computes the attention map by an MLP with one output per cell of one camera's map. Here it is
    the product of a query with the features of each cell, so that the head takes any number of cameras.

    Args:
        num_steps: Future steps K.
        vector_channels: Channels Cv of the scene's vector.
        image_channels: Channels of the coarsest level of the image features.
        measurement_channels: Channels Cm of the encoded measurements.
        feature_channels: Channels of the teacher's feature, which both branches are trained to predict.
        hidden_channels: Channels of the hidden layers.
        state_channels: Channels of the state of both GRUs.
        position_scale: See :class:`WaypointGRU`.
    """

    scene_keys = ('vector', 'images')

    def __init__(
        self,
        num_steps: int = 4,
        vector_channels: int = 512,
        image_channels: int = 512,
        measurement_channels: int = 128,
        feature_channels: int = 256,
        hidden_channels: int = 512,
        state_channels: int = 256,
        position_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.scene_channels = {
            'vector': ('vector_channels', vector_channels),
            'images': ('image_channels', image_channels),
            'measurements': ('measurement_channels', measurement_channels),
        }
        hidden, feature = hidden_channels, feature_channels
        self.speed_branch = mlp(vector_channels, hidden, hidden, 1)
        self.join_traj = mlp(
            vector_channels + measurement_channels, hidden, hidden, feature, final_activation=True
        )
        self.value_branch_traj = mlp(feature, hidden, 1)
        self.start_traj = nn.Linear(feature, state_channels)
        self.waypoint_gru = WaypointGRU(state_channels, num_steps, position_scale)

        self.first_query = mlp(measurement_channels, hidden, image_channels)
        self.join_ctrl = mlp(
            image_channels + measurement_channels, hidden, hidden, feature, final_activation=True
        )
        self.value_branch_ctrl = mlp(feature, hidden, 1)
        self.policy = mlp(feature, hidden, hidden, final_activation=True)
        self.alpha_head = nn.Linear(hidden, ACTION_DIM)
        self.beta_head = nn.Linear(hidden, ACTION_DIM)
        if num_steps > 1:
            self.start_ctrl = nn.Linear(feature, state_channels)
            self.action_gru = nn.GRUCell(feature + 2 * ACTION_DIM, state_channels)
            self.query = mlp(2 * state_channels, hidden, image_channels)
            self.merge = mlp(image_channels + state_channels, hidden, feature, final_activation=True)

    def forward(
        self, scene: SceneFeatures, measurements: Measurements, teacher: None = None
    ) -> dict[str, Float[Tensor, 'B ...']]:
        """Predict one stage, and speed, values and features for the losses; see :meth:`Planner.forward`."""
        assert scene.vector is not None and scene.images is not None
        features_traj = self.join_traj(torch.cat([scene.vector, measurements.features], dim=1))
        waypoints, states = self.waypoint_gru(self.start_traj(features_traj), measurements.target_point)

        cells = scene.images.levels[-1].transpose(1, 2).flatten(2)  # (B, C, N * h * w)
        seen = attend(self.first_query(measurements.features), cells)
        features_ctrl = self.join_ctrl(torch.cat([seen, measurements.features], dim=1))
        alphas, betas = zip(*self._actions(features_ctrl, states, cells), strict=True)
        return {
            'pred_waypoints': waypoints.unsqueeze(1),
            'pred_alpha': torch.stack(alphas, dim=1).unsqueeze(1),
            'pred_beta': torch.stack(betas, dim=1).unsqueeze(1),
            'pred_speed': in_float32(self.speed_branch, scene.vector),
            'pred_value_traj': in_float32(self.value_branch_traj, features_traj),
            'pred_value_ctrl': in_float32(self.value_branch_ctrl, features_ctrl),
            'pred_features_traj': features_traj,
            'pred_features_ctrl': features_ctrl,
        }

    def _actions(
        self,
        features: Float[Tensor, 'B feature'],
        traj_states: Float[Tensor, 'B K state'],
        cells: Float[Tensor, 'B C cells'],
    ) -> list[tuple[Float[Tensor, 'B 2'], Float[Tensor, 'B 2']]]:
        """Alpha and beta of the current and of the later steps."""
        actions = [self._action(features)]
        state = self.start_ctrl(features) if self.num_steps > 1 else features
        for step in range(1, self.num_steps):
            inputs = torch.cat([features, *actions[-1]], dim=1)
            state = in_float32(self.action_gru, inputs, state)
            seen = attend(self.query(torch.cat([traj_states[:, step - 1], state], dim=1)), cells)
            features = self.merge(torch.cat([seen, state], dim=1))
            actions.append(self._action(features))
        return actions

    def _action(
        self, features: Float[Tensor, 'B feature']
    ) -> tuple[Float[Tensor, 'B 2'], Float[Tensor, 'B 2']]:
        hidden = self.policy(features)
        alpha, beta = (
            F.softplus(in_float32(head, hidden)).clamp(min=MIN_BETA_PARAMETER)
            for head in (self.alpha_head, self.beta_head)
        )
        return alpha, beta


def attend(query: Float[Tensor, 'B C'], cells: Float[Tensor, 'B C cells']) -> Float[Tensor, 'B C']:
    """Mean of the cells, weighted by the softmax of their scaled products with the query."""
    scores = torch.einsum('bc,bcm->bm', query, cells).float() / math.sqrt(cells.shape[1])
    return torch.einsum('bm,bcm->bc', scores.softmax(dim=1).to(cells.dtype), cells)
