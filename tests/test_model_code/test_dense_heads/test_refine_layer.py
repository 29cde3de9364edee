import torch
import torch.nn.functional as F
from helpers.small_decoder import MeanFlattenHead, look_context

from thinktwice.model_code.dense_heads import RefineLayer, SceneState
from thinktwice.model_code.dense_heads.interfaces import LookModule

B, K, C, CV, CM, E, HIDDEN = 2, 3, 4, 6, 5, 3, 16


class Recorder(LookModule):
    """Returns a fixed tensor and remembers what it was given."""

    def __init__(self, result, out_channels=0):
        super().__init__()
        self.result = result
        self.out_channels = out_channels

    def forward(self, *arguments):
        self.arguments = arguments
        return self.result


def test_layer_follows_the_method_step_by_step() -> None:
    future, image, lidar = torch.randn(B, K, C, 5, 7), torch.randn(B, K, 4), torch.randn(B, K, 2)
    prediction, camera_look, lidar_look = Recorder(future), Recorder(image, 4), Recorder(lidar, 2)
    layer = RefineLayer(prediction, camera_look, lidar_look, K, C, CV, CM, E, HIDDEN)
    flatten_head = MeanFlattenHead(C, CV)
    context = look_context(B, measurement=torch.randn(B, CM), temporal_embedding=torch.randn(K, E))
    state = SceneState(torch.randn(B, C, 5, 7), torch.randn(B, CV), torch.randn_like(future))
    waypoints, controls = torch.randn(B, K, 2), torch.randn(B, K, 4)
    waypoint_offset, control_offset, updated = layer(waypoints, controls, state, context, flatten_head)

    actions = F.softplus(controls)
    for given, expected in (
        (prediction.arguments, (state.bev_map, waypoints, actions, state.future_bev_map)),
        (camera_look.arguments[:3], (waypoints, actions, state.bev_vector)),
        (lidar_look.arguments[:2], (waypoints, actions)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))

    hidden = []
    for k in range(K):
        vector = flatten_head(future[:, k], passes=1)[0]
        step = [
            vector,
            image[:, k],
            lidar[:, k],
            context.temporal_embedding[k].expand(B, -1),
            context.measurement,
        ]
        hidden.append(layer.mlp(torch.cat(step, dim=1)))
        offset = layer.traj_offset_module(torch.cat([waypoints[:, k], hidden[k]], dim=1))
        torch.testing.assert_close(waypoint_offset[:, k], offset)
        offset = layer.ctrl_offset_module(torch.cat([controls[:, k], hidden[k]], dim=1))
        torch.testing.assert_close(control_offset[:, k], offset)

    plan = torch.cat(hidden, dim=1)
    spread = plan[:, :, None, None].expand(-1, -1, 5, 7)
    bev_map = state.bev_map + layer.bev_map_update(torch.cat([state.bev_map, spread], dim=1))
    torch.testing.assert_close(updated.bev_map, bev_map, atol=1e-5, rtol=1e-5)
    bev_vector = state.bev_vector + layer.bev_vector_update(torch.cat([state.bev_vector, plan], dim=1))
    torch.testing.assert_close(updated.bev_vector, bev_vector)
    assert updated.future_bev_map is future
