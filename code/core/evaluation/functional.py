"""Errors of plans and controls, as pure functions of tensors.

S samples, K future steps; meters in the ego frame (x forward, y right).
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Plans = Shaped[Tensor, 'S K 2']


def displacement(predicted: Plans, true: Plans) -> Float[Tensor, 'S K']:
    """Distances between predicted and true positions, meters."""
    return torch.linalg.vector_norm(predicted.double() - true.double(), dim=-1)


def average_displacement_error(predicted: Plans, true: Plans) -> Float[Tensor, ' S']:
    """ADE of each sample: mean distance over the K steps, meters."""
    return displacement(predicted, true).mean(dim=1)


def final_displacement_error(predicted: Plans, true: Plans) -> Float[Tensor, ' S']:
    """FDE of each sample: distance at the last step, meters."""
    return displacement(predicted, true)[:, -1]


def axis_offsets(predicted: Plans, true: Plans) -> Float[Tensor, 'S 2']:
    """Mean absolute error along and across the heading, over the K steps, meters."""
    return (predicted.double() - true.double()).abs().mean(dim=1)


def control_error(predicted: Shaped[Tensor, 'S 2'], true: Shaped[Tensor, 'S 2']) -> Float[Tensor, 'S 2']:
    """Absolute error of acceleration and steer, each in [-1, 1]."""
    return (predicted.double() - true.double()).abs()


def constant_velocity_plan(
    speed: Shaped[Tensor, ' S'], num_steps: int, interval: float
) -> Float[Tensor, 'S {num_steps} 2']:
    """Plan in meters that continues straight ahead at the current speed.

    Args:
        speed: m/s.
        num_steps: K.
        interval: Seconds between two steps.
    """
    times = interval * torch.arange(1, num_steps + 1, dtype=torch.float64, device=speed.device)
    forward = speed.double()[:, None] * times
    return torch.stack([forward, torch.zeros_like(forward)], dim=-1)
