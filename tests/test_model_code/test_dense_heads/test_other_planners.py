"""Planners besides the paper's: TCP, GRU waypoints, ego status."""

import pytest
import torch
from helpers.small_decoder import arguments, decoder_inputs, without_gradient

from thinktwice.model_code.dense_heads import EgoStatusPlanner, GRUPlanner, TCPHead
from thinktwice.model_code.dense_heads.tcp_head import attend
from thinktwice.model_code.dense_heads.waypoint_gru import WaypointGRU

SIZES = {'measurement_channels': 5, 'hidden_channels': 16}
PLANNERS = {
    'tcp': lambda steps: TCPHead(
        steps, vector_channels=10, image_channels=6, feature_channels=9, state_channels=7, **SIZES
    ),
    'gru': lambda steps: GRUPlanner(steps, vector_channels=10, state_channels=7, **SIZES),
    'ego': lambda steps: EgoStatusPlanner(steps, **SIZES),
}
all_planners = pytest.mark.parametrize('name', PLANNERS)


@all_planners
@pytest.mark.parametrize(('steps', 'cameras'), [(4, 4), (1, 1), (6, 2)])
def test_shapes_follow_steps_and_cameras_and_all_weights_are_trained(name, steps, cameras) -> None:
    planner = PLANNERS[name](steps)
    outputs = planner(**arguments(decoder_inputs(2, num_cameras=cameras)))
    assert outputs['pred_waypoints'].shape == (2, 1, steps, 2)
    if name != 'gru':
        assert outputs['pred_alpha'].shape == outputs['pred_beta'].shape == (2, 1, steps, 2)
        assert outputs['pred_alpha'].min() >= 1e-3
    # the random signs keep gradients of different outputs from canceling
    sum((value * torch.randn_like(value)).sum() for value in outputs.values()).backward()
    assert not without_gradient(planner)


@all_planners
def test_a_sample_is_planned_the_same_alone_and_in_a_batch(name) -> None:
    planner, inputs = PLANNERS[name](4), decoder_inputs(3)
    together = planner(**arguments(inputs))
    one = {key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
    alone = planner(**arguments({**one, 'fpn': [level[:1] for level in inputs['fpn']]}))
    for key, value in alone.items():
        torch.testing.assert_close(value[0], together[key][0], atol=1e-5, rtol=1e-5)


def test_waypoints_are_sums_of_the_offsets_of_a_gru_led_to_the_target() -> None:
    gru = WaypointGRU(7, 3, position_scale=10.0)
    start, target = torch.randn(2, 7), torch.tensor([[20.0, 3.0], [5.0, -8.0]])
    waypoints, states = gru(start, target)
    whole = torch.nn.GRU(4, 7, batch_first=True)  # with the same weights, over the inputs as they were
    with torch.no_grad():
        for name in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh'):
            getattr(whole, f'{name}_l0').copy_(getattr(gru.cell, name))
    before = torch.cat([torch.zeros(2, 1, 2), waypoints[:, :-1]], dim=1)
    expected, _ = whole(torch.cat([before, target[:, None].expand(-1, 3, -1)], -1) / 10, start[None])
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(waypoints, gru.offset(states).cumsum(dim=1))


def test_attention_is_a_weighted_mean_that_follows_the_query() -> None:
    cells = torch.nn.functional.normalize(torch.randn(2, 6, 11), dim=1)
    seen = attend(1e4 * cells[:, :, 4], cells)
    torch.testing.assert_close(seen, cells[:, :, 4], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(attend(torch.zeros(2, 6), cells), cells.mean(dim=2))


def test_actions_of_later_steps_depend_on_the_trajectory_and_the_first_does_not() -> None:
    planner, inputs = PLANNERS['tcp'](4), decoder_inputs(2)
    before = planner(**arguments(inputs))['pred_alpha'][:, 0]
    with torch.no_grad():
        planner.waypoint_gru.cell.bias_hh += 1
    after = planner(**arguments(inputs))['pred_alpha'][:, 0]
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.isclose(before[:, 1:], after[:, 1:]).all(dim=-1).any()
