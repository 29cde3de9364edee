"""One layer of the decoder: predict the future under the plan, look again, refine the plan."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.interfaces import (
    CONTROL_DIM,
    WAYPOINT_DIM,
    LookContext,
    LookModule,
    SceneState,
)
from thinktwice.model_code.dense_heads.layers import (
    conv_with_broadcast,
    in_float32,
    mlp,
    repeat_samples,
)
from thinktwice.registry import MODELS


@MODELS.register_module()
class RefineLayer(nn.Module):
    """Offsets of the plan and an updated scene (one layer of the paper's cascaded decoder).

    Args:
        prediction_module: Called as :class:`PredictionModule`.
        camera_look: Called as :class:`CameraLook`; None for no look at the images.
        lidar_look: Called as :class:`LidarLook`; None for no look at the LiDAR map.
        num_steps: Future steps K.
        bev_channels: Channels C of the BEV map.
        vector_channels: Channels Cv of the BEV vector.
        measurement_channels: Channels Cm of the encoded measurements.
        embed_channels: Channels E of the temporal embedding.
        hidden_channels: Channels of the feature of each step.
    """

    def __init__(
        self,
        prediction_module: nn.Module,
        camera_look: LookModule | None,
        lidar_look: LookModule | None,
        num_steps: int = 4,
        bev_channels: int = 32,
        vector_channels: int = 256,
        measurement_channels: int = 128,
        embed_channels: int = 128,
        hidden_channels: int = 512,
    ) -> None:
        super().__init__()
        self.prediction_module = prediction_module
        self.camera_look = camera_look
        self.lidar_look = lidar_look
        look_channels = sum(look.out_channels for look in (camera_look, lidar_look) if look is not None)
        joint = vector_channels + look_channels + embed_channels + measurement_channels
        self.mlp = nn.Sequential(
            nn.LayerNorm(joint), *mlp(joint, hidden_channels, hidden_channels, final_activation=True)
        )
        halves = (hidden_channels // 2, hidden_channels // 8)
        self.traj_offset_module = mlp(WAYPOINT_DIM + hidden_channels, *halves, WAYPOINT_DIM)
        self.ctrl_offset_module = mlp(CONTROL_DIM + hidden_channels, *halves, CONTROL_DIM)
        plan_channels = num_steps * hidden_channels
        self.bev_map_update = nn.Sequential(
            nn.Conv2d(bev_channels + plan_channels, 4 * bev_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * bev_channels, bev_channels, 3, padding=1),
        )
        self.bev_vector_update = mlp(vector_channels + plan_channels, hidden_channels, vector_channels)

    def forward(
        self,
        waypoints: Float[Tensor, 'B K 2'],
        controls: Float[Tensor, 'B K 4'],
        state: SceneState,
        context: LookContext,
        flatten_head: nn.Module,
    ) -> tuple[Float[Tensor, 'B K 2'], Float[Tensor, 'B K 4'], SceneState]:
        """Refine the plan of each pass once; B counts the samples of all passes.

        Args:
            waypoints: x, y in the ego frame, meters.
            controls: Beta parameters before the softplus.
            state: The scene after the previous layer.
            context: Sensor features and embeddings of the batch.
            flatten_head: Called as :class:`BEVFlattenHead`.

        Returns:
            Offsets of the waypoints and of the controls, and the updated scene.
        """
        B, K, _ = waypoints.shape
        actions = F.softplus(controls)
        future = self.prediction_module(state.bev_map, waypoints, actions, state.future_bev_map)
        future_vectors = flatten_head(future.flatten(0, 1), passes=context.passes)[0].unflatten(0, (B, K))
        features = torch.cat(
            [
                future_vectors,
                *self.look(waypoints, actions, state.bev_vector, context),
                context.temporal_embedding.expand(B, -1, -1),
                context.measurement.unsqueeze(1).expand(-1, K, -1),
            ],
            dim=-1,
        )
        hidden = self.mlp(features)  # (B, K, hidden)
        waypoint_offset = in_float32(self.traj_offset_module, torch.cat([waypoints, hidden], dim=-1))
        control_offset = in_float32(self.ctrl_offset_module, torch.cat([controls, hidden], dim=-1))
        bev_map, bev_vector = self.update_scene(state, hidden.flatten(1))
        return waypoint_offset, control_offset, SceneState(bev_map, bev_vector, future)

    def look(
        self,
        waypoints: Float[Tensor, 'B K 2'],
        actions: Float[Tensor, 'B K 4'],
        bev_vector: Float[Tensor, 'B Cv'],
        context: LookContext,
    ) -> list[Float[Tensor, 'B K _']]:
        """Retrieve the look features of the sensors."""
        features = []
        if self.camera_look is not None:
            features.append(self.camera_look(waypoints, actions, bev_vector, context))
        if self.lidar_look is not None:
            features.append(self.lidar_look(waypoints, actions, context))
        return features

    def update_scene(
        self, state: SceneState, plan: Float[Tensor, 'B plan_channels']
    ) -> tuple[Float[Tensor, 'B C X Y'], Float[Tensor, 'B Cv']]:
        """Update BEV map and vector with the features of the plan."""
        first_conv, *rest = self.bev_map_update
        assert isinstance(first_conv, nn.Conv2d)
        update = conv_with_broadcast(first_conv, state.bev_map, plan)
        for module in rest:
            update = module(update)
        vector_update = self.bev_vector_update(torch.cat([state.bev_vector, plan], dim=1))
        return repeat_samples(state.bev_map, len(plan)) + update, state.bev_vector + vector_update
