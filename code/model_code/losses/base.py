"""Base class of the losses, and functions that several of them use."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from thinktwice.errors import ConfigError

Predictions = Mapping[str, Any]
Targets = Mapping[str, Any]
Losses = dict[str, Float[Tensor, '']]


class DrivingLoss(nn.Module):
    """Base class of the terms of the training objective.

    A loss maps (predictions, targets) to named scalars with the weights applied. Names that contain
    ``loss`` are summed into the objective, others are only logged. A prediction without elements (no
    refine layers, no future step) gives no entry.

    Attributes:
        target_keys: Keys of the targets that the loss reads.
        output_keys: Keys of the predictions that the loss reads, but for those of the teacher-forcing pass.
        uses_teacher_forcing: Whether the loss reads predictions named ``teacher_...``. The model runs
            the teacher-forcing pass only if a loss does.
        mean_over_ranks: Averages a count over all ranks. The runner sets it in distributed training,
            so that each label has the same weight on every rank.
    """

    target_keys: tuple[str, ...] = ()
    output_keys: tuple[str, ...] = ()
    uses_teacher_forcing: bool = False
    mean_over_ranks: Callable[[Tensor], Tensor] | None = None

    def forward(self, predictions: Predictions, targets: Targets) -> Losses:
        """Compute the terms from the raw predictions of the model and the targets of the batch."""
        raise NotImplementedError

    def label_count(self, labeled: Bool[Tensor, '...']) -> Shaped[Tensor, '']:
        """Number of labels that a sum is divided by, at least 1; in training the mean over all ranks."""
        count = labeled.sum()
        if self.training and self.mean_over_ranks is not None:
            count = self.mean_over_ranks(count.float())
        return torch.where(count > 0, count, torch.ones_like(count))


def smooth_l1(
    prediction: Float[Tensor, '...'],
    target: Float[Tensor, '...'],
    max_error: float | None = None,
    beta: float = 1.0,
) -> Float[Tensor, '']:
    """Mean smooth L1 error over all elements of the prediction.

    Args:
        prediction: Any shape.
        target: Broadcastable to the prediction.
        max_error: The error of an element is clamped to this, with zero gradient above it.
        beta: The error is quadratic below this, and linear above it.
    """
    target = target.float().expand_as(prediction)
    error = F.smooth_l1_loss(prediction.float(), target, reduction='none', beta=beta)
    return error.mean() if max_error is None else error.clamp(max=max_error).mean()


def require_same_shape(
    name: str, prediction: Shaped[Tensor, '...'], target: Shaped[Tensor, '...'], hint: str
) -> None:
    """Check that a target has the shape of the prediction.

    Raises:
        ConfigError: With the name of the target, both shapes and the hint.
    """
    if prediction.shape != target.shape:
        raise ConfigError(
            f'target {name} is {tuple(target.shape)} but the prediction is {tuple(prediction.shape)}: {hint}'
        )


def beta_kl(
    alpha_p: Float[Tensor, '*#shape'],
    beta_p: Float[Tensor, '*#shape'],
    alpha_q: Float[Tensor, '*#shape'],
    beta_q: Float[Tensor, '*#shape'],
) -> Float[Tensor, '*#shape']:
    """KL divergence KL(p || q) of Beta distributions, element by element."""
    log_ratio = _log_beta(alpha_q, beta_q) - _log_beta(alpha_p, beta_p)
    total_change = alpha_q - alpha_p + beta_q - beta_p
    return (
        log_ratio
        + (alpha_p - alpha_q) * torch.digamma(alpha_p)
        + (beta_p - beta_q) * torch.digamma(beta_p)
        + total_change * torch.digamma(alpha_p + beta_p)
    )


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
