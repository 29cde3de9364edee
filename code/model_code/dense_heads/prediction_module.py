"""Future BEV maps under a plan."""

import torch
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.interfaces import CONTROL_DIM, WAYPOINT_DIM
from thinktwice.model_code.dense_heads.layers import double_conv
from thinktwice.registry import MODELS


class SpatialGRU(nn.Module):
    """GRU whose state is a map and whose gates are small convolutions.

    As in the paper's model the reset gate enters as 1 - r and the candidate has no tanh.

    Args:
        input_channels: width of the input, the same at every pixel.
        state_channels: channels C of the state and of the output.
    """

    def __init__(self, input_channels: int, state_channels: int) -> None:
        super().__init__()
        joint = input_channels + state_channels
        self.conv_update = double_conv(joint, state_channels, state_channels)
        self.conv_reset = double_conv(joint, state_channels, state_channels)
        self.conv_state_tilde = double_conv(joint, state_channels, state_channels)
        self.conv_decoder = double_conv(state_channels, state_channels, state_channels)

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Roll out over the inputs.

        Args:
            inputs: (B, K, input_channels).
            state: (B, C, Y, X) initial state.

        Returns:
            (B, K, C, Y, X), the decoded state after each input.
        """
        outputs = []
        for step in inputs.unbind(dim=1):
            spread = step[:, :, None, None].expand(-1, -1, *state.shape[2:])
            joint = torch.cat([spread, state], dim=1)
            update = torch.sigmoid(self.conv_update(joint))
            reset = torch.sigmoid(self.conv_reset(joint))
            candidate = self.conv_state_tilde(torch.cat([spread, (1 - reset) * state], dim=1))
            state = (1 - update) * state + update * candidate
            outputs.append(self.conv_decoder(state))
        return torch.stack(outputs, dim=1)


@MODELS.register_module()
class PredictionModule(nn.Module):
    """Predicts the BEV map of each future step under the plan, refining the previous layer's maps.

    Args:
        bev_channels: channels C of the BEV map.
        residual_channels: width of the residual block, twice C by default.
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

    def forward(self, bev_map: Tensor, waypoints: Tensor, actions: Tensor, previous: Tensor | None) -> Tensor:
        """Predict the future maps.

        Args:
            bev_map: (B, C, Y, X) of the key frame.
            waypoints: (B, K, 2) ego meters.
            actions: (B, K, 4) Beta parameters, positive.
            previous: (B, K, C, Y, X) of the previous layer, None in the first.

        Returns:
            (B, K, C, Y, X).
        """
        future = self.spatial_gru(torch.cat([waypoints, actions], dim=-1), bev_map)
        return self.update(future, previous)

    def update(self, future: Tensor, previous: Tensor | None) -> Tensor:
        """Add the residual block's value to the previous maps; the first layer has none to add to.

        The 2023 code computed this sum and then returned ``future`` alone.
        """
        residual = self.ffn(future.flatten(0, 1)).view_as(future)
        return residual if previous is None else residual + previous
