"""Look module of the LiDAR: features of its BEV map around the planned positions."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.interfaces import CONTROL_DIM, WAYPOINT_DIM, LookContext, LookModule
from thinktwice.model_code.dense_heads.layers import mlp
from thinktwice.registry import MODELS


@MODELS.register_module()
class LidarLook(LookModule):
    """LiDAR features at each waypoint and its eight neighbors (the LiDAR part of the paper's Look Module).

    A gate computed from the plan scales their channels. 2023 replaced the result with zeros and
    sampled the map transposed (docs/reference_quirks, M3 and M6).

    Args:
        lidar_channels: Channels Cl of the LiDAR map.
        embed_channels: Channels E of the temporal embedding.
        x_range: Extent of the map along x (its last and first row), meters.
        y_range: Extent of the map along y (its first and last column), meters.
        hidden_channels: Channels of the hidden layer of the gate.
        point_channels: Channels of the feature of each position.
        out_channels: Channels of the look features.
        neighbor_offset: Distance of the neighbors as a fraction of the map.
    """

    offsets: Tensor

    def __init__(
        self,
        lidar_channels: int,
        embed_channels: int,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        hidden_channels: int = 256,
        point_channels: int = 128,
        out_channels: int = 256,
        neighbor_offset: float = 0.1,
    ) -> None:
        super().__init__()
        self.x_range = x_range
        self.y_range = y_range
        self.out_channels = out_channels
        steps = torch.tensor([0.0, -neighbor_offset, neighbor_offset])
        self.register_buffer('offsets', torch.cartesian_prod(steps, steps), persistent=False)  # (9, 2) x, y
        gate_channels = WAYPOINT_DIM + CONTROL_DIM + embed_channels
        self.gate = nn.Sequential(*mlp(gate_channels, hidden_channels, lidar_channels), nn.Sigmoid())
        self.point_mlp = mlp(lidar_channels, point_channels, final_activation=True)
        self.step_mlp = mlp(len(self.offsets) * point_channels, out_channels, final_activation=True)

    def forward(
        self, waypoints: Float[Tensor, 'B K 2'], actions: Float[Tensor, 'B K 4'], context: LookContext
    ) -> Float[Tensor, 'B K out_channels']:
        """Retrieve LiDAR features around the plan.

        Args:
            waypoints: x, y in the ego frame, meters.
            actions: Beta parameters, positive.
            context: Sensor features and embeddings of the batch.
        """
        assert context.lidar_map is not None
        temporal = context.temporal_embedding.expand(len(waypoints), -1, -1)
        gate = self.gate(torch.cat([waypoints, actions, temporal], dim=-1))  # (B, K, Cl)
        # scaling the channels of the samples equals scaling those of the map
        sampled = self.sample(waypoints, context.lidar_map) * gate.unsqueeze(2)  # (B, K, 9, Cl)
        return self.step_mlp(self.point_mlp(sampled).flatten(2))

    def sample(
        self, waypoints: Float[Tensor, 'B K 2'], lidar_map: Float[Tensor, 'samples Cl X Y']
    ) -> Float[Tensor, 'B K 9 Cl']:
        """Sample the map at the waypoints of all passes and their neighbors, clamped to the map."""
        ahead, right = self.sampling_locations(waypoints).unbind(-1)  # (B, K, 9) each
        # teacher orientation: row 0 is farthest ahead, column 0 is leftmost
        grid = torch.stack([2 * right - 1, 1 - 2 * ahead], dim=-1)
        # the steps of all passes side by side: (samples, passes * K, 9, 2)
        grid = grid.unflatten(0, (-1, len(lidar_map))).transpose(0, 1).flatten(1, 2)
        sampled = F.grid_sample(lidar_map.float(), grid.float(), align_corners=False)
        sampled = sampled.permute(0, 2, 3, 1).unflatten(1, (-1, waypoints.shape[1]))
        return sampled.transpose(0, 1).flatten(0, 1)

    def sampling_locations(self, waypoints: Float[Tensor, 'B K 2']) -> Float[Tensor, 'B K 9 2']:
        """Positions of the waypoints and their neighbors in the map, as fractions of its x and y range."""
        ahead = (waypoints[..., 0] - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        right = (waypoints[..., 1] - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        position = torch.stack([ahead, right], dim=-1).unsqueeze(2) + self.offsets.to(waypoints)
        return position.clamp(0, 1)
