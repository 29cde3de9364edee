"""Open-loop metrics, independent of the world size."""

import bisect
import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric
from torch import Tensor

from thinktwice.core.evaluation import functional
from thinktwice.datasets import collate_samples
from thinktwice.datasets.splits import town_of
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


class SampleMetric(BaseMetric):
    """Base of the metrics that average over samples.

    Each sample counts once: samples that the sampler repeated to give all ranks the
    same number, and substitutes of unreadable samples, are left out. Raw values are
    gathered once and reduced in the order of the samples, so the result does not
    depend on the batch size or the world size.
    """

    def add(self, metas: Sequence[dict], rows: Sequence[Any]) -> None:
        """Keep a row per sample, whatever ``compute_metrics`` reads."""
        for meta, row in zip(metas, rows, strict=True):
            if meta['index'] == meta.get('requested_index', meta['index']):
                self.results.append((meta['index'], row))

    def evaluate(self, size: int) -> dict[str, Any]:
        """Gather the rows of all ranks and reduce them. Collective.

        Args:
            size: Length of the dataset; unused, since rows contain their index.

        Returns:
            The metrics, equal on all ranks.
        """
        by_index = dict(row for part in all_gather_object(self.results) for row in part)
        self.results.clear()
        metrics = self.compute_metrics([by_index[index] for index in sorted(by_index)])
        return {f'{self.prefix}/{name}': value for name, value in metrics.items()}


@METRICS.register_module()
class OpenLoopMetric(SampleMetric):
    """Errors of the last refinement stage: ADE, FDE and the paper's four logged offsets.

    The errors of the control are left out where the model predicts or the data records no actions.

    ADE and FDE are also averaged over parts of the samples, ``command/<name>``, ``town/<name>`` and
    ``speed/<band>``, as far as the metas tell these, and given for each stage of a plan in several,
    ``coarse`` and ``refined_<layer>``.

    Args:
        speed_bands: Increasing bounds between the bands of the recorded speed, m/s.
        **kwargs: Arguments of mmengine's ``BaseMetric``, such as ``prefix``.
    """

    default_prefix = 'open_loop'
    metric_names: tuple[str, ...] = METRIC_NAMES

    def __init__(self, speed_bands: Sequence[float] = (1.0, 3.0, 6.0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.speed_bands = tuple(speed_bands)

    def plan(self, data_batch: dict, data_samples: Sequence[dict]) -> tuple[Tensor, Tensor | None]:
        """The plan to evaluate.

        Args:
            data_batch: The collated batch.
            data_samples: Predictions of the model, one per sample.

        Returns:
            Waypoints of all stages (B, stages, K, 2) in meters, the final plan last, and controls (B, 2),
            or None if there are none.
        """
        stages = [
            torch.as_tensor(sample.get('waypoints_stages', sample['waypoints'][None]))
            for sample in data_samples
        ]
        actions = None
        if 'action' in data_samples[0]:
            actions = torch.stack([torch.as_tensor(sample['action']) for sample in data_samples]).cpu()
        return torch.stack(stages).cpu(), actions

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Add the errors of each sample and the parts that it belongs to."""
        targets = data_batch['targets']
        if 'waypoints' not in targets:
            raise ConfigError(
                f'{type(self).__name__} reads the label waypoints, which the samples do not hold: let the '
                'pipeline load it (LoadWaypoints), or leave the metric out'
            )
        true = targets['waypoints'].cpu()
        stages, actions = self.plan(data_batch, data_samples)
        waypoints = stages[:, -1]
        errors = [
            functional.average_displacement_error(waypoints, true)[:, None],
            functional.final_displacement_error(waypoints, true)[:, None],
            functional.axis_offsets(waypoints, true),
        ]
        names = list(METRIC_NAMES[:4])
        if actions is not None and 'action_alpha' in targets:
            wanted = beta_mode_action(targets['action_alpha'], targets['action_beta']).cpu()
            errors.append(functional.control_error(actions, wanted))
            names += METRIC_NAMES[4:]
        self.metric_names = tuple(names)
        for number, stage in enumerate(stages.unbind(dim=1) if stages.shape[1] > 1 else ()):
            errors.append(functional.average_displacement_error(stage, true)[:, None])
            errors.append(functional.final_displacement_error(stage, true)[:, None])
            title = f'refined_{number}' if number else 'coarse'
            names += [f'{title}/ade', f'{title}/fde']
        metas = data_batch['metas']
        rows = [dict(zip(names, row, strict=True)) for row in torch.cat(errors, dim=1).tolist()]
        self.add(metas, [(row, self.parts_of(meta)) for row, meta in zip(rows, metas, strict=True)])

    def parts_of(self, meta: dict) -> list[str]:
        """Parts of the samples that one belongs to; the metas hold what was recorded, whatever the inputs."""
        parts = []
        if 'command' in meta:
            names = (self.dataset_meta or {}).get('commands')
            parts.append(f'command/{names[meta["command"]] if names else meta["command"]}')
        if 'town' in meta:
            parts.append(f'town/{town_of(meta["town"])}')
        if 'speed' in meta:
            band = bisect.bisect_right(self.speed_bands, meta['speed'])
            low, high = (0.0, *self.speed_bands)[band], (*self.speed_bands, math.inf)[band]
            parts.append(f'speed/{low:g}_to_{high:g}')
        return parts

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Mean of each error over the samples.

        Args:
            results: Errors by name and parts of each sample.

        Raises:
            ConfigError: There are no samples.
            TrainingDivergedError: An error is NaN or infinite.
        """
        if not results:
            raise ConfigError(
                'the evaluation has no readable sample: is the validation split empty or damaged?'
            )
        rows = torch.tensor([list(row.values()) for row, _ in results], dtype=torch.float64)
        is_bad = ~rows.isfinite().all(dim=1)
        if is_bad.any():
            raise TrainingDivergedError(
                f'{self.prefix}: predictions of {int(is_bad.sum())} of {len(rows)} samples are not finite: '
                'the weights are damaged or diverged. Use an earlier checkpoint, or lower the learning rate'
            )
        metrics = dict(zip(results[0][0], rows.mean(dim=0).tolist(), strict=True))
        members: dict[str, list[int]] = {}
        for position, (_, parts) in enumerate(results):
            for part in parts:
                members.setdefault(part, []).append(position)
        for part, positions in sorted(members.items()):
            ade, fde = rows[positions, :2].mean(dim=0).tolist()
            metrics |= {f'{part}/ade': ade, f'{part}/fde': fde, f'{part}/samples': len(positions)}
        return {**metrics, 'samples': len(rows)}


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
        return functional.constant_velocity_plan(speed, num_steps, self.interval)[:, None], None


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
        return self.waypoints.expand(batch_size, 1, -1, -1), self.action.expand(batch_size, -1)


def sample_metrics(
    metrics: Iterable[BaseMetric], sample: Mapping[str, Any], prediction: dict[str, Tensor]
) -> dict[str, float]:
    """Values that metrics would have in an evaluation of one sample.

    Args:
        metrics: Those that average over samples are used; what they have collected is left as it is.
        sample: Sample of a dataset.
        prediction: What the model predicts for it.

    Returns:
        ``<prefix>/<metric>`` to value, as far as the sample has the labels; nothing for a sample that
        replaces an unreadable one.
    """
    targets = sample.get('targets') or {}
    values: dict[str, float] = {}
    for metric in metrics:
        is_unlabeled = isinstance(metric, OpenLoopMetric) and 'waypoints' not in targets
        if not targets or is_unlabeled or not isinstance(metric, SampleMetric):
            continue
        alone = copy.copy(metric)
        alone.results = []
        alone.process(collate_samples([dict(sample)]), [prediction])
        if rows := [row for _, row in alone.results]:
            values |= {f'{metric.prefix}/{key}': value for key, value in alone.compute_metrics(rows).items()}
    return values
