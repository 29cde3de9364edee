"""Future BEV maps conditioned on a plan."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.interfaces import CONTROL_DIM, WAYPOINT_DIM
from thinktwice.model_code.dense_heads.layers import (
    conv_constant,
    double_conv,
    repeat_samples,
    to_conv_format,
)
from thinktwice.registry import MODELS


class SpatialGRU(nn.Module):
    """GRU (Cho et al., 2014) over feature maps, with convolutions in place of its linear layers.

    As in the 2023 model the reset gate is used as 1 - r and the candidate has no tanh.

    Args:
        input_channels: Channels of the input, which is expanded to all pixels.
        state_channels: Channels C of state and output.
    """

    def __init__(self, input_channels: int, state_channels: int) -> None:
        super().__init__()
        joint = input_channels + state_channels
        self.conv_update = double_conv(joint, state_channels, state_channels)
        self.conv_reset = double_conv(joint, state_channels, state_channels)
        self.conv_state_tilde = double_conv(joint, state_channels, state_channels)
        self.conv_decoder = double_conv(state_channels, state_channels, state_channels)

    def forward(
        self, inputs: Float[Tensor, 'B K input_channels'], state: Float[Tensor, 'samples C X Y']
    ) -> Float[Tensor, 'B K C X Y']:
        """Run over a sequence of inputs.

        Args:
            inputs: The sequence, of all passes over the samples.
            state: Initial state, of all passes or the same for each.

        Returns:
            The decoded state after each input.
        """
        B, K = inputs.shape[:2]
        update_gate, reset_gate, candidate_of = (
            _InputsAndState(block, inputs, (state.shape[2], state.shape[3]))
            for block in (self.conv_update, self.conv_reset, self.conv_state_tilde)
        )
        states = []
        for step in range(K):
            update = torch.sigmoid(update_gate(step, state))
            reset = torch.sigmoid(reset_gate(step, state))
            state = repeat_samples(state, B)
            candidate = candidate_of(step, (1 - reset) * state)
            state = (1 - update) * state + update * candidate
            states.append(state)
        maps = to_conv_format(torch.stack(states, dim=1).flatten(0, 1))
        return self.conv_decoder(maps).unflatten(0, (B, K))


class _InputsAndState:
    """A double convolution of the inputs of a step, expanded to all pixels, and the state.

    The part of the inputs is computed for all steps at once, without expanding them.
    """

    def __init__(
        self, block: nn.Sequential, inputs: Float[Tensor, 'B K input_channels'], size: tuple[int, int]
    ) -> None:
        first, self.second = block[0], block[2]
        assert isinstance(first, nn.Conv2d)
        of_inputs, of_state = first.weight.tensor_split([inputs.shape[2]], dim=1)
        response = conv_constant(of_inputs, inputs.flatten(0, 1), size, padding=(1, 1))
        self.responses = response.unflatten(0, inputs.shape[:2]).unbind(dim=1)
        self.weight, self.bias = of_state, first.bias

    def __call__(self, step: int, state: Float[Tensor, 'samples C X Y']) -> Float[Tensor, 'B C X Y']:
        response = self.responses[step]
        hidden = repeat_samples(F.conv2d(state, self.weight, self.bias, padding=1), len(response))
        return self.second((hidden + response).relu())


@MODELS.register_module()
class PredictionModule(nn.Module):
    """BEV map of each future step conditioned on the plan (the paper's Prediction Module).

    Each layer refines the maps of the previous one.

    Args:
        bev_channels: Channels C of the BEV map.
        residual_channels: Hidden channels of the residual block, 2 C by default.
    """

    def __init__(self, bev_channels: int = 32, residual_channels: int | None = None) -> None:
        super().__init__()
        hidden = residual_channels or 2 * bev_channels
        self.spatial_gru = SpatialGRU(WAYPOINT_DIM + CONTROL_DIM, bev_channels)
        self.ffn = nn.Sequential(
            nn.Conv2d(bev_channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, bev_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(bev_channels, bev_channels, 1),
        )

    def forward(
        self,
        bev_map: Float[Tensor, 'samples C X Y'],
        waypoints: Float[Tensor, 'B K 2'],
        actions: Float[Tensor, 'B K 4'],
        previous: Float[Tensor, 'B K C X Y'] | None,
    ) -> Float[Tensor, 'B K C X Y']:
        """Predict the future maps.

        Args:
            bev_map: BEV feature map of the key frame, of all passes or the same for each.
            waypoints: x, y in the ego frame, meters.
            actions: Beta parameters, positive.
            previous: Future maps of the previous layer, None in the first.
        """
        future = self.spatial_gru(torch.cat([waypoints, actions], dim=-1), bev_map)
        return self.update(future, previous)

    def update(
        self, future: Float[Tensor, 'B K C X Y'], previous: Float[Tensor, 'B K C X Y'] | None
    ) -> Float[Tensor, 'B K C X Y']:
        """Add the output of the residual block to the previous maps, if any.

        2023 computed this sum and then returned ``future`` alone (docs/reference_quirks, M5).
        """
        residual = self.ffn(future.flatten(0, 1)).view_as(future)
        return residual if previous is None else residual + previous
