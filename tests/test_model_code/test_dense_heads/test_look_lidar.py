import pytest
import torch
import torch.nn.functional as F
from helpers.small_decoder import look_context, without_gradient

from thinktwice.geometry.bev_grid import to_teacher_orientation
from thinktwice.model_code.dense_heads import LidarLook

X_RANGE, Y_RANGE = (-8.0, 30.4), (-19.2, 19.2)
CELLS = 48  # 0.8 m each
CL, E = 5, 4


def lidar_look(**options):
    return LidarLook(CL, E, X_RANGE, Y_RANGE, hidden_channels=8, point_channels=3, out_channels=6, **options)


def context(lidar_map, steps=4):
    return look_context(len(lidar_map), lidar_map=lidar_map, temporal_embedding=torch.randn(steps, E))


def map_with_object(x, y):
    """Map in teacher orientation with ones in the cell of an ego position."""
    indexed = torch.zeros(1, CL, CELLS, CELLS)  # row = y index, column = x index
    indexed[:, :, int((y - Y_RANGE[0]) / 0.8), int((x - X_RANGE[0]) / 0.8)] = 1
    return to_teacher_orientation(indexed)


@pytest.mark.parametrize(('x', 'y'), [(20.0, 5.2), (0.0, -12.0), (16.0, -9.2), (-4.0, 0.4)])
def test_a_waypoint_reads_the_cell_it_lies_in(x, y) -> None:
    sampled = lidar_look().sample(torch.tensor([[[x, y]]]), map_with_object(x, y))
    assert sampled[0, 0, 0, 0] > 0.2  # the cell itself, at worst seen from its corner
    # the mirrored and the transposed position are empty
    mirrored = torch.tensor([[[x, -y], [y + 11.2, x - 11.2]]])
    assert lidar_look().sample(mirrored, map_with_object(x, y))[0, :, 0].abs().max() == 0


def test_neighbors_lie_a_tenth_of_the_map_away_x_outside_y_inside() -> None:
    look = lidar_look()
    center = torch.tensor([[[10.0, 2.0]]])
    for i, (dx, dy) in enumerate((dx, dy) for dx in (0, -3.84, 3.84) for dy in (0, -3.84, 3.84)):
        assert look.sample(center, map_with_object(10 + dx, 2 + dy))[0, 0, i, 0] > 0.2


def test_positions_are_held_inside_the_map() -> None:
    look, lidar_map = lidar_look(), torch.ones(1, CL, CELLS, CELLS)
    far = look.sample(torch.tensor([[[500.0, -300.0]]]), lidar_map)
    border = look.sample(torch.tensor([[[X_RANGE[1], Y_RANGE[0]]]]), lidar_map)
    assert far[0, 0, 0, 0] == border[0, 0, 0, 0] > 0


def test_gating_the_samples_equals_gating_the_map() -> None:
    look, scene = lidar_look(), context(torch.randn(2, CL, CELLS, CELLS))
    waypoints, actions = torch.randn(2, 4, 2) * 5, torch.rand(2, 4, 4)
    temporal = scene.temporal_embedding.expand(2, -1, -1)
    gate = look.gate(torch.cat([waypoints, actions, temporal], dim=-1))
    gated = (scene.lidar_map.unsqueeze(1) * gate[..., None, None]).flatten(0, 1)
    sampled = look.sample(waypoints.flatten(0, 1).unsqueeze(1), gated).view(2, 4, 9, CL)
    expected = F.relu(look.step_mlp[0](F.relu(look.point_mlp[0](sampled)).flatten(2)))
    torch.testing.assert_close(look(waypoints, actions, scene), expected)


def test_the_map_and_every_parameter_get_a_gradient() -> None:
    look, lidar_map = lidar_look(), torch.randn(2, CL, CELLS, CELLS, requires_grad=True)
    look(torch.randn(2, 4, 2), torch.rand(2, 4, 4), context(lidar_map)).sum().backward()
    assert not without_gradient(look)
    assert lidar_map.grad.abs().sum() > 0
