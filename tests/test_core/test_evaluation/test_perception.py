"""Depth and classes counted pixel by pixel in numpy, and what is left out."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from thinktwice.core.evaluation import PerceptionMetric
from thinktwice.core.evaluation.table import classes_table
from thinktwice.datasets.labels import KEPT_IDS, training_class_names, training_id_table

S, N, CLASSES, D = 5, 2, 4, 6  # samples, cameras
H, W = 16, 24  # labels; logits of classes at half, of depth at a quarter of the size
BOUNDS = (2.0, 20.0, 3.0)
NEAR = 9.0
NAMES = ['background', 'road', 'vehicle', 'red_light']


def make_samples() -> list[tuple[dict, dict]]:
    """(targets, predictions): labels in blocks, predictions that are often right, some unknown labels."""
    rng = np.random.default_rng(3)
    samples = []
    for _ in range(S):
        seg = rng.integers(0, 3, (N, H // 4, W // 4)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
        seg[rng.random(seg.shape) < 0.1] = 255
        depth = rng.uniform(0.5, 25, (N, H, W)).astype(np.float32)
        depth[rng.random(depth.shape) < 0.2] = 0.0
        guess = np.where(rng.random((N, H // 2, W // 2)) < 0.6, seg[:, ::2, ::2] % CLASSES, 2)
        logits = 4 * np.eye(CLASSES)[guess].transpose(0, 3, 1, 2) + rng.random((N, CLASSES, H // 2, W // 2))
        depth_logits = rng.normal(size=(N, D, H // 4, W // 4))
        samples.append(
            (
                dict(seg=torch.from_numpy(seg), depth=torch.from_numpy(depth)),
                dict(
                    seg_logits=torch.from_numpy(logits).float(), depth_logits=torch.from_numpy(depth_logits)
                ),
            )
        )
    return samples


def evaluate(samples: list[tuple[dict, dict]], batch_size: int = 2, **changes: Any) -> dict[str, float]:
    metric = PerceptionMetric(depth_bounds=BOUNDS, near=NEAR)
    metric.dataset_meta = {'classes': NAMES}
    for start in range(0, len(samples), batch_size):
        targets, predictions = zip(*samples[start : start + batch_size], strict=True)
        batch = dict(
            targets={key: torch.stack([target[key] for target in targets]) for key in targets[0]},
            metas=[dict(index=start + i, requested_index=start + i) for i in range(len(targets))],
        )
        metric.process(batch, list(predictions))
    return metric.evaluate(len(samples))


def counted_pixel_by_pixel(samples: list[tuple[dict, dict]]) -> dict[str, float]:
    labeled, predicted, hit, labeled_near, hit_near = (np.zeros(CLASSES) for _ in range(5))
    for target, prediction in samples:
        for n, i, j in np.ndindex(N, H // 2, W // 2):
            true = int(target['seg'][n, 2 * i, 2 * j])
            if true == 255:
                continue
            guess = int(np.argmax(prediction['seg_logits'][n, :, i, j].numpy()))
            labeled[true] += 1
            predicted[guess] += 1
            hit[true] += guess == true
            if 0 < target['depth'][n, 2 * i, 2 * j] <= NEAR:
                labeled_near[true] += 1
                hit_near[true] += guess == true
    metrics = {}
    for c, name in enumerate(NAMES):
        if labeled[c]:
            metrics[f'perception/{name}/iou'] = hit[c] / (labeled[c] + predicted[c] - hit[c])
            metrics[f'perception/{name}/recall'] = hit[c] / labeled[c]
            metrics[f'perception/{name}/recall_near'] = hit_near[c] / labeled_near[c]
    return metrics


def depth_error_patch_by_patch(samples: list[tuple[dict, dict]], near: float) -> float:
    near_bound, far, step = BOUNDS
    errors = []
    for target, prediction in samples:
        for n, i, j in np.ndindex(N, H // 4, W // 4):
            patch = target['depth'][n, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].numpy()
            known = patch[patch > 0]
            true = known.min() if len(known) else math.inf
            if near_bound <= true < far and true <= near:
                weights = np.exp(prediction['depth_logits'][n, :, i, j].numpy())
                centers = [near_bound + step * (c + 0.5) for c in range(D)]
                errors.append(abs(np.dot(weights, centers) / weights.sum() - true))
    return float(np.mean(errors))


def test_values_equal_loops_over_pixels():
    samples = make_samples()
    found = evaluate(samples)
    expected = counted_pixel_by_pixel(samples)
    expected['perception/depth_error'] = depth_error_patch_by_patch(samples, math.inf)
    expected['perception/depth_error_near'] = depth_error_patch_by_patch(samples, NEAR)
    # no pixel is a red light: its recall is unknown
    assert found.keys() == expected.keys() and 'perception/red_light/recall' not in found
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('batch_size', [1, 3, 5])
def test_batches_do_not_matter(batch_size):
    samples = make_samples()
    assert evaluate(samples, batch_size) == pytest.approx(evaluate(samples), rel=1e-6)


def test_what_the_data_or_the_model_lacks_is_left_out():
    samples = make_samples()
    only_seg = [(dict(seg=target['seg']), prediction) for target, prediction in samples]
    assert set(evaluate(only_seg)) == {
        f'perception/{name}/{value}' for name in NAMES[:3] for value in ('iou', 'recall')
    }
    only_depth = [(dict(depth=target['depth']), prediction) for target, prediction in samples]
    assert set(evaluate(only_depth)) == {'perception/depth_error', 'perception/depth_error_near'}
    assert evaluate([(target, {}) for target, _ in samples]) == {}


def test_names_belong_to_the_training_ids():
    names, table = training_class_names(), training_id_table()
    assert len(names) == table[:255].max() + 1 == 12
    assert names[0] == 'background' and names[-2:] == ['red_light', 'green_light']
    for recorded, name in {
        1: 'building',
        4: 'pedestrian',
        7: 'road',
        10: 'vehicle',
        18: 'traffic_light',
    }.items():
        assert names[table[recorded]] == name
    assert training_class_names([7, 4]) == ['background', 'road', 'pedestrian']
    assert len(names) == len(KEPT_IDS) + 3


def test_table_has_a_row_per_class():
    values = {'perception/road/iou': 0.5, 'perception/road/recall': 0.625, 'perception/depth_error': 1.0}
    rows = classes_table(values).splitlines()
    assert [cell.strip() for cell in rows[2].split('|')[1:-1]] == ['road', '0.50', '0.62', '-']
    assert len(rows) == 3
