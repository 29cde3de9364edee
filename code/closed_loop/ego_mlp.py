"""The ego-status baseline: a small network that sees speed, target point and command, and no sensor.

What a model with cameras gains over it is what its cameras are worth (as in NAVSIM's ego-status MLP).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinktwice.closed_loop.controllers import Prediction
from thinktwice.model_code.control import beta_mode_action

NUM_COMMANDS = 6
LABEL_STEPS = ('LoadMeasurements', 'LoadWaypoints', 'LoadSupervision')
"""Pipeline steps that read what this network needs."""


class EgoStatusMLP(nn.Module):
    """Waypoints and action from the status of the vehicle.

    Args:
        num_steps: future steps K.
        hidden_channels: width of the hidden layers.

    Attributes:
        scale: of the inputs: speed in m/s, target point in meters.
    """

    scale: Tensor

    def __init__(self, num_steps: int, hidden_channels: int = 128) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.layers = nn.Sequential(
            nn.Linear(3 + NUM_COMMANDS, hidden_channels),
            nn.ReLU(),
            nn.Linear(hidden_channels, hidden_channels),
            nn.ReLU(),
            nn.Linear(hidden_channels, 2 * num_steps + 2),
        )
        self.register_buffer('scale', torch.tensor([10.0, 20.0, 20.0]))

    def forward(self, speed: Tensor, target_point: Tensor, command: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            speed: (B,) m/s.
            target_point: (B, 2) ego meters.
            command: (B,) int64.

        Returns:
            Waypoints (B, K, 2) in ego meters and actions (B, 2), acceleration and steer in [-1, 1].
        """
        status = torch.cat([speed[:, None], target_point], dim=1) / self.scale
        outputs = self.layers(torch.cat([status, F.one_hot(command, NUM_COMMANDS).float()], dim=1))
        waypoints, action = outputs.split([2 * self.num_steps, 2], dim=1)
        return waypoints.unflatten(1, (self.num_steps, 2)), action.tanh()

    def predict(self, samples: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Predictions for samples that ``LoadMeasurements`` made."""
        with torch.no_grad():
            waypoints, actions = self(*status_tensors(samples))
        return [
            {'waypoints': plan, 'action': action} for plan, action in zip(waypoints, actions, strict=True)
        ]


def status_tensors(samples: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """Speed (B,), target point (B, 2) and command (B,) of samples."""
    return (
        torch.tensor([sample['speed'] for sample in samples], dtype=torch.float32),
        torch.from_numpy(np.stack([sample['target_point'] for sample in samples])).float(),
        torch.tensor([sample['command'] for sample in samples]),
    )


def label_tensors(samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """What the expert did: waypoints (B, K, 2) in ego meters, action_alpha and action_beta (B, 2)."""
    keys = ('waypoints', 'action_alpha', 'action_beta')
    return {key: torch.from_numpy(np.stack([sample[key] for sample in samples])).float() for key in keys}


def train_ego_mlp(
    samples: Sequence[Mapping[str, Any]], epochs: int = 100, batch_size: int = 64, seed: int = 0
) -> EgoStatusMLP:
    """Train the network on the labels of recorded samples, which takes seconds.

    Args:
        samples: with the results of ``LABEL_STEPS``.
        epochs: passes over them.
        batch_size: samples per step.
        seed: of the weights and of the order.

    Returns:
        The network in evaluation mode; equal for equal arguments on one thread.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        status = status_tensors(samples)
        waypoints, alpha, beta = label_tensors(samples).values()
        actions = beta_mode_action(alpha, beta)
        model = EgoStatusMLP(waypoints.shape[1])
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for index in torch.randperm(len(samples)).split(batch_size):
                plan, action = model(*(part[index] for part in status))
                loss = F.smooth_l1_loss(plan, waypoints[index]) + F.smooth_l1_loss(action, actions[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    return model.eval()
