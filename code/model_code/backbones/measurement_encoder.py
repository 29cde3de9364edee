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
        target_scale: The target point is divided by this, meters. In meters it is much larger than the
            other inputs, and the plan learns them late.
        speed_dropout: Probability that the speed of a training sample is set to 0. It keeps the plan from
            following the present speed alone; the speed of a standing vehicle then says little.
        hidden_channels: Channels of the hidden layer.
        out_channels: Channels of the output.

    Raises:
        ConfigError: If ``speed_scale`` is not above 0.
    """

    def __init__(
        self,
        num_commands: int = 6,
        speed_scale: float = 12.0,
        target_scale: float = 1.0,
        speed_dropout: float = 0.0,
        hidden_channels: int = 128,
        out_channels: int = 128,
    ) -> None:
        super().__init__(init_cfg={'type': 'Xavier', 'layer': 'Linear', 'distribution': 'normal'})
        for name, scale in (('speed_scale', speed_scale), ('target_scale', target_scale)):
            if not scale > 0:
                raise ConfigError(f'{name}={scale}: MeasurementEncoder needs a scale above 0')
        self.num_commands = num_commands
        self.speed_scale = speed_scale
        self.target_scale = target_scale
        self.speed_dropout = speed_dropout
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
        if self.training and self.speed_dropout > 0:
            speed = speed * (torch.rand_like(speed) >= self.speed_dropout)
        # F.one_hot waits for the device to check the range
        one_hot = (command[:, None] == torch.arange(self.num_commands, device=command.device)).to(speed)
        return self.layers(
            torch.cat((speed[:, None] / self.speed_scale, target_point / self.target_scale, one_hot), dim=1)
        )
