"""What all losses have in common."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinktwice.errors import ConfigError

Predictions = Mapping[str, Any]
Targets = Mapping[str, Any]


class DrivingLoss(nn.Module):
    """A term of the training objective: (predictions, targets) to named scalars, weights applied.

    Names that contain ``loss`` are summed into the objective, others are only logged. A
    prediction of no elements (no refine layers, no future step) gives no entry.

    Attributes:
        target_keys: entries of the targets that are read.
        uses_teacher_forcing: whether predictions named ``teacher_...`` are read; the model runs the
            teacher-forcing pass only if some loss reads them.
        mean_over_ranks: maps a count to its mean over all processes; the runner sets it where
            there are several, so that each label weighs the same, whatever process it is on.
    """

    target_keys: tuple[str, ...] = ()
    uses_teacher_forcing: bool = False
    mean_over_ranks: Callable[[Tensor], Tensor] | None = None

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Compute the terms from the model's raw predictions and the batch's targets."""
        raise NotImplementedError

    def label_count(self, labeled: Tensor) -> Tensor:
        """Number of labels to divide a sum by: of this process, or the mean over all in training.

        Args:
            labeled: bool, any shape.

        Returns:
            A positive scalar: 1 where there is no label at all.
        """
        count = labeled.sum()
        if self.training and self.mean_over_ranks is not None:
            count = self.mean_over_ranks(count.float())
        return torch.where(count > 0, count, torch.ones_like(count))


def smooth_l1(prediction: Tensor, target: Tensor, max_error: float | None = None) -> Tensor:
    """Mean smooth-L1 error (beta 1) over all elements; the normalizer is their number.

    Args:
        prediction: any shape.
        target: broadcastable to the prediction.
        max_error: elements above it count as this and give no gradient.
    """
    error = F.smooth_l1_loss(prediction.float(), target.float().expand_as(prediction), reduction='none')
    return error.mean() if max_error is None else error.clamp(max=max_error).mean()


def require_same_shape(name: str, prediction: Tensor, target: Tensor, hint: str) -> None:
    """Refuse a target whose shape doesn't belong to the prediction.

    Raises:
        ConfigError: naming the target, both shapes and the hint.
    """
    if prediction.shape != target.shape:
        raise ConfigError(
            f'target {name} is {tuple(target.shape)} but the prediction is {tuple(prediction.shape)}: {hint}'
        )


def beta_kl(alpha_p: Tensor, beta_p: Tensor, alpha_q: Tensor, beta_q: Tensor) -> Tensor:
    """KL divergence from Beta q to Beta p, KL(p || q), element by element."""
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
