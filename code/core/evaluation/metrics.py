"""Open-loop metrics, independent of the world size."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric
from torch import Tensor

from thinktwice.core.evaluation import functional
from thinktwice.errors import ConfigError, TrainingDivergedError
from thinktwice.model_code.control import beta_mode_action
from thinktwice.registry import METRICS

METRIC_NAMES = (
    'ade',
    'fde',
    'longitudinal_offset',
    'lateral_offset',
    'current_throttle_brake_offset',
    'current_steer_offset',
)
"""Meters for the first four; the last two are differences of controls in [-1, 1]."""


@METRICS.register_module()
class OpenLoopMetric(BaseMetric):
    """Errors of the last refinement stage: ADE, FDE and the paper's four logged offsets.

    Each sample counts once: samples that the sampler repeated to give all ranks the
    same number, and substitutes of unreadable samples, are left out. Raw values are
    gathered once and averaged in float64, so the result does not depend on the
    batch size or the world size.

    Args:
        prefix: First part of the names of the metrics.
    """

    default_prefix = 'open_loop'
    metric_names: tuple[str, ...] = METRIC_NAMES

    def plan(self, data_batch: dict, data_samples: Sequence[dict]) -> tuple[Tensor, Tensor | None]:
        """The plan to evaluate.

        Args:
            data_batch: The collated batch.
            data_samples: Predictions of the model, one per sample.

        Returns:
            Waypoints (B, K, 2) in meters and controls (B, 2), or None if there are none.
        """
        waypoints = torch.stack([torch.as_tensor(sample['waypoints']) for sample in data_samples])
        actions = torch.stack([torch.as_tensor(sample['action']) for sample in data_samples])
        return waypoints.cpu(), actions.cpu()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Add one row per sample: its requested index and its errors in the order of ``metric_names``."""
        targets = data_batch['targets']
        true = targets['waypoints'].cpu()
        waypoints, actions = self.plan(data_batch, data_samples)
        errors = [
            functional.average_displacement_error(waypoints, true)[:, None],
            functional.final_displacement_error(waypoints, true)[:, None],
            functional.axis_offsets(waypoints, true),
        ]
        if actions is not None:
            wanted = beta_mode_action(targets['action_alpha'], targets['action_beta']).cpu()
            errors.append(functional.control_error(actions, wanted))
        rows = torch.cat(errors, dim=1).tolist()
        for meta, row in zip(data_batch['metas'], rows, strict=True):
            wanted_index = meta.get('requested_index', meta['index'])
            if meta['index'] == wanted_index:
                self.results.append((wanted_index, row))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Mean of each error over the samples.

        Args:
            results: Rows of all ranks, repeated samples included.

        Raises:
            ConfigError: There are no samples.
            TrainingDivergedError: An error is NaN or infinite.
        """
        by_index = dict(results)
        if not by_index:
            raise ConfigError(
                'the evaluation has no readable sample: is the validation split empty or damaged?'
            )
        rows = torch.tensor([by_index[index] for index in sorted(by_index)], dtype=torch.float64)
        is_bad = ~rows.isfinite().all(dim=1)
        if is_bad.any():
            raise TrainingDivergedError(
                f'{self.prefix}: predictions of {int(is_bad.sum())} of {len(rows)} samples are not finite: '
                'the weights are damaged or diverged. Use an earlier checkpoint, or lower the learning rate'
            )
        return dict(zip(self.metric_names, rows.mean(dim=0).tolist(), strict=True), samples=len(rows))

    def evaluate(self, size: int) -> dict[str, Any]:
        """Gather the rows of all ranks and average them. Collective.

        Args:
            size: Length of the dataset; unused, since rows contain their index.

        Returns:
            The metrics, equal on all ranks.
        """
        rows = [row for part in all_gather_object(self.results) for row in part]
        self.results.clear()
        return {f'{self.prefix}/{name}': value for name, value in self.compute_metrics(rows).items()}


@METRICS.register_module()
class ConstantVelocityMetric(OpenLoopMetric):
    """The same errors for a plan that continues straight ahead at the current speed.

    Args:
        interval: Seconds between two waypoints.
    """

    default_prefix = 'constant_velocity'
    metric_names = METRIC_NAMES[:4]  # it has no controls

    def __init__(self, interval: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.interval = interval

    def plan(self, data_batch: dict, data_samples: Sequence[dict]) -> tuple[Tensor, None]:
        """See ``OpenLoopMetric.plan``."""
        speed = data_batch['inputs']['speed'].cpu()
        num_steps = data_batch['targets']['waypoints'].shape[1]
        return functional.constant_velocity_plan(speed, num_steps, self.interval), None


@METRICS.register_module()
class MeanPlanMetric(OpenLoopMetric):
    """The same errors for one fixed plan and control, such as the mean of the training set.

    Args:
        waypoints: (K, 2) meters.
        action: (2,) acceleration and steer in [-1, 1].
    """

    default_prefix = 'training_mean'

    def __init__(self, waypoints: Sequence[Sequence[float]], action: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.waypoints = torch.as_tensor(waypoints, dtype=torch.float64)
        self.action = torch.as_tensor(action, dtype=torch.float64)

    def plan(self, data_batch: dict, data_samples: Sequence[dict]) -> tuple[Tensor, Tensor]:
        """See ``OpenLoopMetric.plan``."""
        batch_size = len(data_batch['metas'])
        return self.waypoints.expand(batch_size, -1, -1), self.action.expand(batch_size, -1)
