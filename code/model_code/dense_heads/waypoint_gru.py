"""Waypoints by a GRU that is led to the target point, and a planner of them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.interfaces import WAYPOINT_DIM, Planner
from thinktwice.model_code.dense_heads.layers import in_float32, mlp
from thinktwice.model_code.scene import Measurements, SceneFeatures
from thinktwice.registry import MODELS


class WaypointGRU(nn.Module):
    """Autoregressive waypoints (Chitta et al., TransFuser, 2022; Wu et al., TCP, 2022).

    The input of each step is the last waypoint and the target point, its output the offset to the next
    waypoint.

    Args:
        hidden_channels: Channels C of the state.
        num_steps: Future steps K.
        position_scale: Positions are divided by this before they enter the GRU, meters.
    """

    def __init__(self, hidden_channels: int, num_steps: int, position_scale: float = 1.0) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.position_scale = position_scale
        self.cell = nn.GRUCell(2 * WAYPOINT_DIM, hidden_channels)
        self.offset = nn.Linear(hidden_channels, WAYPOINT_DIM)

    def forward(
        self, state: Float[Tensor, 'B C'], target_point: Float[Tensor, 'B 2']
    ) -> tuple[Float[Tensor, 'B K 2'], Float[Tensor, 'B K C']]:
        """Predict waypoints.

        Args:
            state: Initial state.
            target_point: x, y in the ego frame, meters.

        Returns:
            Waypoints x, y in the ego frame in meters, and the state that gave each of them.
        """
        state = state.float()
        waypoint = torch.zeros_like(target_point)
        waypoints, states = [], []
        for _ in range(self.num_steps):
            inputs = torch.cat([waypoint, target_point], dim=1) / self.position_scale
            state = in_float32(self.cell, inputs, state)
            waypoint = waypoint + in_float32(self.offset, state)
            waypoints.append(waypoint)
            states.append(state)
        return torch.stack(waypoints, dim=1), torch.stack(states, dim=1)


@MODELS.register_module()
class GRUPlanner(Planner):
    """Waypoints of TransFuser (Chitta et al., PAMI 2022): an MLP over the scene's vector, then a GRU.

    The encoded measurements enter the MLP too; TransFuser has the target point only.

    Args:
        num_steps: Future steps K.
        vector_channels: Channels Cv of the scene's vector.
        measurement_channels: Channels Cm of the encoded measurements.
        hidden_channels: Channels of the hidden layer.
        state_channels: Channels of the GRU's state.
        position_scale: See :class:`WaypointGRU`.
    """

    scene_keys = ('vector',)

    def __init__(
        self,
        num_steps: int = 4,
        vector_channels: int = 512,
        measurement_channels: int = 128,
        hidden_channels: int = 256,
        state_channels: int = 64,
        position_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scene_channels = {
            'vector': ('vector_channels', vector_channels),
            'measurements': ('measurement_channels', measurement_channels),
        }
        self.join = mlp(vector_channels + measurement_channels, hidden_channels, state_channels)
        self.gru = WaypointGRU(state_channels, num_steps, position_scale)

    def forward(
        self, scene: SceneFeatures, measurements: Measurements, teacher: None = None
    ) -> dict[str, Float[Tensor, 'B ...']]:
        """Predict one stage of waypoints; see :meth:`Planner.forward`."""
        assert scene.vector is not None
        state = self.join(torch.cat([scene.vector, measurements.features], dim=1))
        waypoints, _ = self.gru(state, measurements.target_point)
        return {'pred_waypoints': waypoints.unsqueeze(1)}
