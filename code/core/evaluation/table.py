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
