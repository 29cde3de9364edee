"""Speed, target point and navigation command to a feature vector."""

import torch
from jaxtyping import Float, Int64
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.errors import ConfigError
from thinktwice.registry import MODELS


@MODELS.register_module()
class MeasurementEncoder(BaseModule):
    """Two-layer MLP over speed, target point and navigation command.

    Args:
        num_commands: Number of navigation commands.
        speed_scale: The speed is divided by this, m/s.
        hidden_channels: Channels of the hidden layer.
        out_channels: Channels of the output.

    Raises:
        ConfigError: If ``speed_scale`` is not above 0.
    """

    def __init__(
        self,
        num_commands: int = 6,
        speed_scale: float = 12.0,
        hidden_channels: int = 128,
        out_channels: int = 128,
    ) -> None:
        super().__init__(init_cfg={'type': 'Xavier', 'layer': 'Linear', 'distribution': 'normal'})
        if not speed_scale > 0:
            raise ConfigError(f'speed_scale={speed_scale}: MeasurementEncoder needs a speed above 0 m/s')
        self.num_commands = num_commands
        self.speed_scale = speed_scale
        self.layers = nn.Sequential(
            nn.Linear(1 + 2 + num_commands, hidden_channels),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_channels, out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(
        self,
        speed: Float[Tensor, ' B'],
        target_point: Float[Tensor, 'B 2'],
        command: Int64[Tensor, ' B'],
    ) -> Float[Tensor, 'B Cm']:
        """Encode the measurements.

        Args:
            speed: m/s.
            target_point: x, y in the ego frame, meters.
            command: 0 to num_commands - 1.
        """
        # F.one_hot waits for the device to check the range
        one_hot = (command[:, None] == torch.arange(self.num_commands, device=command.device)).to(speed)
        return self.layers(torch.cat((speed[:, None] / self.speed_scale, target_point, one_hot), dim=1))
