"""Errors of plans and controls, as pure functions of tensors.

S samples, K future steps; meters in the ego frame (x forward, y right).
"""

import torch
from torch import Tensor


def displacement(predicted: Tensor, true: Tensor) -> Tensor:
    """Distances between predicted and true positions.

    Args:
        predicted: (S, K, 2) meters.
        true: (S, K, 2) meters.

    Returns:
        (S, K) meters.
    """
    return torch.linalg.vector_norm(predicted.double() - true.double(), dim=-1)


def average_displacement_error(predicted: Tensor, true: Tensor) -> Tensor:
    """ADE of each sample: mean distance over the K steps.

    Args:
        predicted: (S, K, 2) meters.
        true: (S, K, 2) meters.

    Returns:
        (S,) meters.
    """
    return displacement(predicted, true).mean(dim=1)


def final_displacement_error(predicted: Tensor, true: Tensor) -> Tensor:
    """FDE of each sample: distance at the last step.

    Args:
        predicted: (S, K, 2) meters.
        true: (S, K, 2) meters.

    Returns:
        (S,) meters.
    """
    return displacement(predicted, true)[:, -1]


def axis_offsets(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error along and across the heading, over the K steps.

    Args:
        predicted: (S, K, 2) meters.
        true: (S, K, 2) meters.

    Returns:
        (S, 2) meters: longitudinal, lateral.
    """
    return (predicted.double() - true.double()).abs().mean(dim=1)


def control_error(predicted: Tensor, true: Tensor) -> Tensor:
    """Absolute error of the control.

    Args:
        predicted: (S, 2) acceleration and steer, each in [-1, 1].
        true: (S, 2) the same.

    Returns:
        (S, 2).
    """
    return (predicted.double() - true.double()).abs()


def constant_velocity_plan(speed: Tensor, num_steps: int, interval: float) -> Tensor:
    """Plan that continues straight ahead at the current speed.

    Args:
        speed: (S,) m/s.
        num_steps: K.
        interval: Seconds between two steps.

    Returns:
        (S, K, 2) meters.
    """
    times = interval * torch.arange(1, num_steps + 1, dtype=torch.float64, device=speed.device)
    forward = speed.double()[:, None] * times
    return torch.stack([forward, torch.zeros_like(forward)], dim=-1)
