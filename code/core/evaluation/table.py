"""Metrics of several predictors in one table."""

from collections.abc import Mapping

from thinktwice.core.evaluation.metrics import METRIC_NAMES
from thinktwice.tables import format_table

TITLES = {
    'ade': 'ADE, m',
    'fde': 'FDE, m',
    'longitudinal_offset': 'longitudinal, m',
    'lateral_offset': 'lateral, m',
    'current_throttle_brake_offset': 'throttle/brake',
    'current_steer_offset': 'steer',
}


def parts_table(metrics: Mapping[str, float]) -> str:
    """Format the errors of ``OpenLoopMetric`` for each stage and each part of the samples.

    Args:
        metrics: ``open_loop/<part>/<ade, fde, samples>`` to value.
    """
    rows = []
    for key in metrics:
        prefix, _, name = key.partition('/')
        part, _, error = name.rpartition('/')
        if prefix == 'open_loop' and part and error == 'ade':
            count = metrics.get(f'open_loop/{part}/samples', metrics['open_loop/samples'])
            ade, fde = (metrics[f'open_loop/{part}/{name}'] for name in ('ade', 'fde'))
            rows.append((part.replace('/', ' '), str(count), f'{ade:.3f}', f'{fde:.3f}'))
    return format_table(('part', 'samples', TITLES['ade'], TITLES['fde']), rows)


def classes_table(metrics: Mapping[str, float]) -> str:
    """Format the values of ``PerceptionMetric`` for each class.

    Args:
        metrics: ``perception/<class>/<iou, recall, recall_near>`` to value.
    """
    rows = []
    for key in metrics:
        if key.startswith('perception/') and key.endswith('/iou'):
            start = key.removesuffix('iou')
            values = [metrics.get(start + name) for name in ('iou', 'recall', 'recall_near')]
            cells = ('-' if value is None else f'{value:.2f}' for value in values)
            rows.append((key.split('/')[1], *cells))
    return format_table(('class', 'IoU', 'recall', 'recall near'), rows)


def comparison_table(metrics: Mapping[str, float], predictors: Mapping[str, str]) -> str:
    """Format a table with a row per predictor and a column per metric.

    Args:
        metrics: ``<prefix>/<metric>`` to value; a metric that is absent is shown as a dash.
        predictors: Prefix to the name to show.

    Returns:
        The table and a line with the number of samples.
    """
    rows = []
    for prefix, title in predictors.items():
        values = [metrics.get(f'{prefix}/{name}') for name in METRIC_NAMES]
        rows.append((title, *('-' if value is None else f'{value:.3f}' for value in values)))
    table = format_table(('', *(TITLES[name] for name in METRIC_NAMES)), rows)
    count = metrics.get(f'{next(iter(predictors))}/samples')
    return f'{table}\n\nMeans over {count} held-out samples; lower is better.\n'
