import math

import torch
from torch import nn

from thinktwice.model_code.dense_heads import PredictionModule
from thinktwice.model_code.dense_heads.prediction_module import SpatialGRU


def constant(block: nn.Sequential, value: float) -> None:
    """Make a block of convolutions return a number whatever it gets."""
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(block[-1].bias, value)


def passing(block: nn.Sequential, channel: int) -> None:
    """Make a block return one (not negative) input channel."""
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    block[0].weight.data[0, channel, 1, 1] = 1
    block[-1].weight.data[0, 0, 1, 1] = 1


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def gru_of_one_channel(update: float, reset: float) -> SpatialGRU:
    gru = SpatialGRU(input_channels=2, state_channels=1)
    constant(gru.conv_update, update)
    constant(gru.conv_reset, reset)
    passing(gru.conv_decoder, 0)
    return gru


def test_state_moves_to_the_candidate_by_the_update_gate() -> None:
    gru = gru_of_one_channel(update=0.3, reset=0.0)
    constant(gru.conv_state_tilde, 5.0)  # beyond what a tanh could give
    outputs = gru(torch.randn(1, 2, 2), torch.full((1, 1, 3, 3), 2.0))
    u = sigmoid(0.3)
    first = (1 - u) * 2 + u * 5
    second = (1 - u) * first + u * 5
    torch.testing.assert_close(outputs[0, :, 0, 1, 1], torch.tensor([first, second]))


def test_reset_gate_enters_as_its_complement() -> None:
    gru = gru_of_one_channel(update=20.0, reset=1.0)  # the update takes the candidate alone
    passing(gru.conv_state_tilde, channel=2)  # after the two inputs: the gated state
    outputs = gru(torch.zeros(1, 1, 2), torch.full((1, 1, 3, 3), 2.0))
    torch.testing.assert_close(outputs[0, 0, 0, 1, 1], torch.tensor((1 - sigmoid(1.0)) * 2))


def test_inputs_reach_the_candidate_step_by_step() -> None:
    gru = gru_of_one_channel(update=20.0, reset=0.0)
    passing(gru.conv_state_tilde, channel=1)
    inputs = torch.rand(2, 3, 2)
    outputs = gru(inputs, torch.rand(2, 1, 3, 4))
    torch.testing.assert_close(outputs[:, :, 0, 2, 3], inputs[:, :, 1])


def test_a_state_of_the_samples_starts_every_pass() -> None:
    gru = SpatialGRU(input_channels=2, state_channels=3).double()
    inputs, state = torch.randn(4, 3, 2).double(), torch.randn(2, 3, 5, 4).double()
    torch.testing.assert_close(gru(inputs, state), gru(inputs, torch.cat([state, state])))


def test_residual_value_is_returned_and_added_to_the_previous_maps() -> None:
    module = PredictionModule(bev_channels=3)
    bev_map, waypoints, actions = torch.randn(2, 3, 5, 4), torch.randn(2, 4, 2), torch.rand(2, 4, 4)
    first = module(bev_map, waypoints, actions, None)
    assert first.shape == (2, 4, 3, 5, 4)
    previous = torch.randn_like(first)
    torch.testing.assert_close(module(bev_map, waypoints, actions, previous), first + previous)


def test_every_parameter_gets_a_gradient_without_a_previous_layer() -> None:
    module = PredictionModule(bev_channels=3)
    module(torch.randn(2, 3, 5, 5), torch.randn(2, 4, 2), torch.rand(2, 4, 4), None).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
