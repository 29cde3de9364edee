"""Look back at the LiDAR map around the planned positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.interfaces import CONTROL_DIM, WAYPOINT_DIM, LookContext, LookModule
from thinktwice.model_code.dense_heads.layers import mlp
from thinktwice.registry import MODELS


@MODELS.register_module()
class LidarLook(LookModule):
    """LiDAR features at each waypoint and its eight neighbors, gated by the plan.

    The 2023 code replaced the result by zeros, and read the map transposed.

    Args:
        lidar_channels: channels Cl of the LiDAR map.
        embed_channels: width E of the temporal embedding.
        x_range: meters ahead that the map covers, its last and first row.
        y_range: meters to the right that the map covers, its first and last column.
        hidden_channels: width of the gate's hidden layer.
        point_channels: width of each position's feature.
        out_channels: width of the result.
        neighbor_offset: distance of the neighbors as a share of the map.
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

    def forward(self, waypoints: Tensor, actions: Tensor, context: LookContext) -> Tensor:
        """Look at the LiDAR map.

        Args:
            waypoints: (B, K, 2) ego meters.
            actions: (B, K, 4) Beta parameters, positive.
            context: the batch's sensors and embeddings.

        Returns:
            (B, K, out_channels).
        """
        temporal = context.temporal_embedding.expand(len(waypoints), -1, -1)
        gate = self.gate(torch.cat([waypoints, actions, temporal], dim=-1))  # (B, K, Cl)
        # the gate scales channels, so it may as well scale the samples
        sampled = self.sample(waypoints, context.lidar_map) * gate.unsqueeze(2)  # (B, K, 9, Cl)
        return self.step_mlp(self.point_mlp(sampled).flatten(2))

    def sample(self, waypoints: Tensor, lidar_map: Tensor) -> Tensor:
        """Map values (B, K, 9, Cl) at the waypoints and their neighbors, held inside the map."""
        ahead = (waypoints[..., 0] - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        right = (waypoints[..., 1] - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        position = torch.stack([ahead, right], dim=-1).unsqueeze(2) + self.offsets.to(waypoints)
        ahead, right = position.clamp(0, 1).unbind(-1)  # (B, K, 9) each
        # column 0 is left and row 0 farthest ahead
        grid = torch.stack([2 * right - 1, 1 - 2 * ahead], dim=-1)
        sampled = F.grid_sample(lidar_map.float(), grid.float(), align_corners=False)  # (B, Cl, K, 9)
        return sampled.permute(0, 2, 3, 1)
