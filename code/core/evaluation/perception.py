"""Depth and semantic segmentation of the auxiliary heads against the labels."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from thinktwice.core.evaluation.metrics import SampleMetric
from thinktwice.geometry.bev_grid import Bounds
from thinktwice.model_code.losses.depth import UNLABELED, depth_bins, patch_depth
from thinktwice.model_code.losses.segmentation import nearest_labels
from thinktwice.registry import METRICS


def class_counts(
    predicted: Int64[Tensor, 'B P'],
    labels: Shaped[Tensor, 'B P'],
    is_near: Bool[Tensor, 'B P'],
    num_classes: int,
) -> Int64[Tensor, 'B classes 5']:
    """Count the pixels of each class in each sample.

    Args:
        predicted: Class ids.
        labels: Class ids; pixels with ids of ``num_classes`` and more are ignored.
        is_near: Whether a pixel counts for the last two columns.
        num_classes: Classes to count.

    Returns:
        Pixels labeled, predicted, both; and, of the near ones, labeled and both.
    """
    is_labeled = labels < num_classes
    is_hit = is_labeled & (predicted == labels)

    def count(classes: Tensor, selected: Tensor) -> Tensor:
        samples = torch.arange(len(classes), device=classes.device)[:, None] * num_classes
        ids = (samples + classes.long())[selected & (classes < num_classes)]
        return torch.bincount(ids, minlength=len(classes) * num_classes).view(-1, num_classes)

    columns = [
        count(labels, is_labeled),
        count(predicted, is_labeled),
        count(labels, is_hit),
        count(labels, is_labeled & is_near),
        count(labels, is_hit & is_near),
    ]
    return torch.stack(columns, dim=-1)


@METRICS.register_module()
class PerceptionMetric(SampleMetric):
    """Depth error, and intersection over union and recall of each class, over all cameras.

    ``<class>/iou``, ``<class>/recall`` and ``<class>/recall_near`` count pixels of all samples together,
    at the size of the logits, with the label of the nearest pixel. A class without a labeled pixel
    has no entry. Near are pixels whose depth label is at most ``near``.

    ``depth_error`` and ``depth_error_near`` are mean absolute errors in meters: of the mean of the
    distribution that lift-splat uses, against the label of the depth loss, which is the smallest depth of a
    patch. Patches outside ``depth_bounds`` do not count.

    What the data has no labels for, or the model no logits, is left out.

    Args:
        depth_bounds: Near, far and step of the depth bins, meters.
        near: Largest depth of near pixels, meters along the optical axis.
        **kwargs: Arguments of mmengine's ``BaseMetric``, such as ``prefix``.
    """

    default_prefix = 'perception'

    def __init__(self, depth_bounds: Bounds, near: float = 15.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth_bounds = depth_bounds
        self.near = near

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Add the sums of each sample."""
        targets = data_batch['targets']
        sums: dict[str, Tensor] = {}
        if 'seg' in targets and 'seg_logits' in data_samples[0]:
            sums['classes'] = self.class_sums(_stacked(data_samples, 'seg_logits'), targets)
        if 'depth' in targets and 'depth_logits' in data_samples[0]:
            sums['depth'] = self.depth_sums(_stacked(data_samples, 'depth_logits'), targets['depth'])
        if sums:
            rows = zip(*(values.cpu() for values in sums.values()), strict=True)
            self.add(data_batch['metas'], [dict(zip(sums, row, strict=True)) for row in rows])

    def class_sums(
        self, logits: Float[Tensor, 'B N classes h w'], targets: dict[str, Tensor]
    ) -> Int64[Tensor, 'B classes 5']:
        """See :func:`class_counts`; without depth labels no pixel is near."""
        size = (logits.shape[-2], logits.shape[-1])
        labels = nearest_labels(targets['seg'].to(logits.device), size)
        is_near = torch.zeros_like(labels, dtype=torch.bool)
        if 'depth' in targets:
            depth = nearest_labels(targets['depth'].to(logits.device), size)
            is_near = (depth > 0) & (depth <= self.near)
        return class_counts(
            logits.argmax(dim=2).flatten(1), labels.flatten(1), is_near.flatten(1), logits.shape[2]
        )

    def depth_sums(
        self, logits: Float[Tensor, 'B N D h w'], depth: Float[Tensor, 'B N H W']
    ) -> Float[Tensor, 'B 4']:
        """Sum of errors and number of patches, of all and of the near ones."""
        expected = self.expected_depth(logits)
        size = (logits.shape[-2], logits.shape[-1])
        true = patch_depth(depth.to(logits.device).flatten(0, 1), size, 'min').view_as(expected)
        is_labeled = depth_bins(true, self.depth_bounds) != UNLABELED
        is_near = is_labeled & (true <= self.near)
        error = (expected - true).abs().double()
        sums = [error * is_labeled, is_labeled, error * is_near, is_near]
        return torch.stack([values.double().flatten(1).sum(dim=1) for values in sums], dim=1)

    def expected_depth(self, logits: Float[Tensor, 'B N D h w']) -> Float[Tensor, 'B N h w']:
        """Mean of the predicted distribution of each patch, meters."""
        first, _, step = self.depth_bounds
        centers = first + step * (torch.arange(logits.shape[2], device=logits.device) + 0.5)
        return torch.einsum('bndhw,d->bnhw', logits.float().softmax(dim=2), centers)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Ratios of the sums over the samples.

        Args:
            results: Sums of each sample by name.
        """
        names = results[0] if results else ()
        sums = {name: torch.stack([row[name] for row in results]).sum(dim=0).tolist() for name in names}
        metrics: dict[str, float] = {}
        error, count, error_near, count_near = sums.get('depth', [0.0] * 4)
        if count:
            metrics['depth_error'] = error / count
        if count_near:
            metrics['depth_error_near'] = error_near / count_near
        classes = (self.dataset_meta or {}).get('classes') or []
        for number, (labeled, predicted, hit, labeled_near, hit_near) in enumerate(sums.get('classes', [])):
            name = classes[number] if number < len(classes) else f'class_{number}'
            if labeled:
                metrics[f'{name}/iou'] = hit / (labeled + predicted - hit)
                metrics[f'{name}/recall'] = hit / labeled
            if labeled_near:
                metrics[f'{name}/recall_near'] = hit_near / labeled_near
        return metrics


def _stacked(data_samples: Sequence[dict], key: str) -> Tensor:
    return torch.stack([sample[key] for sample in data_samples])
