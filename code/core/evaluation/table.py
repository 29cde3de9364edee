"""Metrics of several predictors side by side, as text."""

from collections.abc import Mapping

from thinktwice.core.evaluation.metrics import METRIC_NAMES

TITLES = {
    'ade': 'ADE, m',
    'fde': 'FDE, m',
    'longitudinal_offset': 'longitudinal, m',
    'lateral_offset': 'lateral, m',
    'current_throttle_brake_offset': 'throttle/brake',
    'current_steer_offset': 'steer',
}


def comparison_table(metrics: Mapping[str, float], predictors: Mapping[str, str]) -> str:
    """Table with a row for each predictor and a column for each metric; lower is better in all.

    Args:
        metrics: ``<prefix>/<metric>`` to value; absent ones are shown as a dash.
        predictors: Prefix to the name to show.

    Returns:
        Lines of text, the last one saying on how many samples.
    """
    header = ['', *(TITLES[name] for name in METRIC_NAMES)]
    rows = [header]
    for prefix, title in predictors.items():
        values = [metrics.get(f'{prefix}/{name}') for name in METRIC_NAMES]
        rows.append([title, *('-' if value is None else f'{value:.3f}' for value in values)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        '  '.join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    count = metrics.get(f'{next(iter(predictors))}/samples')
    lines.append(f'mean over {count} held-out samples; lower is better')
    return '\n'.join(line.rstrip() for line in lines) + '\n'
