"""Metrics count each sample once, whatever the batches and processes."""

import itertools

import numpy as np
import pytest
import torch

from thinktwice.core.evaluation import (
    METRIC_NAMES,
    ConstantVelocityMetric,
    MeanPlanMetric,
    OpenLoopMetric,
    metrics,
)
from thinktwice.core.evaluation.table import comparison_table, parts_table
from thinktwice.errors import TrainingDivergedError

N, K = 11, 4


def make_samples() -> list[tuple[dict, dict]]:
    """(what the loader gives, what the model predicts) of N samples."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    return [
        (
            dict(
                inputs=dict(speed=10 * draw(())),
                targets=dict(waypoints=draw(K, 2), action_alpha=1 + draw(2), action_beta=1 + draw(2)),
                metas=dict(
                    index=index,
                    requested_index=index,
                    town=('town01_00', 'town02_00', 'town02_03')[index % 3],
                    command=index % 2,
                    speed=float(index),
                ),
            ),
            dict(waypoints=(stages := draw(3, K, 2))[-1], waypoints_stages=stages, action=2 * draw(2) - 1),
        )
        for index in range(N)
    ]


def process(metric: OpenLoopMetric, samples: list[tuple[dict, dict]]) -> None:
    """Give one batch to a metric."""
    loaded, predicted = zip(*samples, strict=True)
    batch = {
        group: {key: torch.stack([sample[group][key] for sample in loaded]) for key in loaded[0][group]}
        for group in ('inputs', 'targets')
    }
    metric.process({**batch, 'metas': [sample['metas'] for sample in loaded]}, list(predicted))


def evaluate(metric: OpenLoopMetric, samples: list, batch_size: int = 4) -> dict:
    for start in range(0, len(samples), batch_size):
        process(metric, samples[start : start + batch_size])
    return metric.evaluate(len(samples))


def test_values_equal_a_loop_over_samples():
    samples = make_samples()
    result = evaluate(OpenLoopMetric(), samples)
    ade = sum((p['waypoints'] - s['targets']['waypoints']).norm(dim=-1).mean() for s, p in samples) / N
    lateral = sum((p['waypoints'] - s['targets']['waypoints'])[:, 1].abs().mean() for s, p in samples) / N

    def mode(target: dict) -> torch.Tensor:  # both parameters are above 1
        return 2 * (target['action_alpha'] - 1) / (target['action_alpha'] + target['action_beta'] - 2) - 1

    steer = sum((p['action'] - mode(s['targets']))[1].abs() for s, p in samples) / N
    assert result['open_loop/ade'] == pytest.approx(ade.item(), abs=1e-6)
    assert result['open_loop/lateral_offset'] == pytest.approx(lateral.item(), abs=1e-6)
    assert result['open_loop/current_steer_offset'] == pytest.approx(steer.item(), abs=1e-6)
    assert result['open_loop/samples'] == N
    assert {f'open_loop/{name}' for name in METRIC_NAMES} < result.keys()


def test_stages_and_parts_equal_numpy_over_their_samples():
    samples = make_samples()
    metric = OpenLoopMetric(speed_bands=(2.0, 7.5))
    metric.dataset_meta = {'commands': ['left', 'right']}
    result = evaluate(metric, samples)
    true = np.stack([loaded['targets']['waypoints'].numpy() for loaded, _ in samples])
    stages = np.stack([predicted['waypoints_stages'].numpy() for _, predicted in samples])
    distance = np.sqrt(((stages - true[:, None]) ** 2).sum(axis=-1))  # (N, stages, K)
    for number, stage in enumerate(('coarse', 'refined_1', 'refined_2')):
        assert result[f'open_loop/{stage}/ade'] == pytest.approx(distance[:, number].mean(), rel=1e-6)
        assert result[f'open_loop/{stage}/fde'] == pytest.approx(distance[:, number, -1].mean(), rel=1e-6)
    members = {
        'command/left': [0, 2, 4, 6, 8, 10],
        'command/right': [1, 3, 5, 7, 9],
        'town/town01': [0, 3, 6, 9],
        'town/town02': [1, 2, 4, 5, 7, 8, 10],
        'speed/0_to_2': [0, 1],
        'speed/2_to_7.5': [2, 3, 4, 5, 6, 7],
        'speed/7.5_to_inf': [8, 9, 10],
    }
    for part, indices in members.items():
        assert result[f'open_loop/{part}/samples'] == len(indices)
        assert result[f'open_loop/{part}/ade'] == pytest.approx(distance[indices, -1].mean(), rel=1e-6)
        assert result[f'open_loop/{part}/fde'] == pytest.approx(distance[indices, -1, -1].mean(), rel=1e-6)
    parts = {name.split('/', 1)[1].rpartition('/')[0] for name in result} - {''}
    assert parts == {'coarse', 'refined_1', 'refined_2', *members}


def test_parts_are_those_of_the_metas():
    samples = make_samples()
    for loaded, predicted in samples:
        loaded['metas'] = {key: loaded['metas'][key] for key in ('index', 'requested_index')}
        del predicted['waypoints_stages']
    result = evaluate(OpenLoopMetric(), samples)
    assert not any(key.count('/') > 1 for key in result)


def test_table_of_parts_has_a_row_for_each():
    table = parts_table(evaluate(OpenLoopMetric(), make_samples())).splitlines()
    rows = {cells[1].strip(): cells[2].strip() for cells in (line.split('|') for line in table[2:])}
    assert rows['coarse'] == rows['refined_2'] == '11'
    assert rows['town town01'] == '4'
    assert rows['speed 6_to_inf'] == '5'


@pytest.mark.parametrize(('processes', 'batch_size'), [(1, 1), (1, 3), (2, 4), (3, 2), (4, 8)])
def test_any_number_of_processes_gives_the_same(monkeypatch, processes, batch_size):
    samples = make_samples()
    expected = evaluate(OpenLoopMetric(), samples, N)
    shares = []
    for rank in range(processes):
        # a sampler that continues from the start to fill the last round
        indices = list(
            itertools.islice(itertools.cycle(range(N)), rank, -(-N // processes) * processes, processes)
        )
        metric = OpenLoopMetric()
        share = [samples[index] for index in indices]
        for start in range(0, len(share), batch_size):
            process(metric, share[start : start + batch_size])
        shares.append(list(metric.results))
    monkeypatch.setattr(metrics, 'all_gather_object', lambda own: shares)
    assert OpenLoopMetric().evaluate(N) == expected


def test_stand_in_for_an_unreadable_sample_is_left_out():
    samples = make_samples()
    samples[3][0]['metas'] |= dict(index=5, requested_index=3)
    result = evaluate(OpenLoopMetric(), samples)
    assert result['open_loop/samples'] == N - 1
    assert result == evaluate(OpenLoopMetric(), samples[:3] + samples[4:])


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match='no readable sample'):
        OpenLoopMetric().evaluate(0)


def test_baselines_judge_their_own_plans():
    samples = make_samples()
    result = evaluate(ConstantVelocityMetric(interval=0.5), samples)
    expected = 0.0
    for loaded, _ in samples:
        plan = [[0.5 * step * loaded['inputs']['speed'].item(), 0.0] for step in range(1, K + 1)]
        expected += (torch.tensor(plan) - loaded['targets']['waypoints']).norm(dim=-1).mean().item() / N
    assert result['constant_velocity/ade'] == pytest.approx(expected, abs=1e-5)
    assert 'constant_velocity/current_steer_offset' not in result

    mean = torch.stack([loaded['targets']['waypoints'] for loaded, _ in samples]).mean(dim=0)
    result = evaluate(MeanPlanMetric(waypoints=mean.tolist(), action=[0.0, 0.0]), samples)
    spread = [(mean - loaded['targets']['waypoints']).norm(dim=-1).mean().item() for loaded, _ in samples]
    assert result['training_mean/ade'] == pytest.approx(sum(spread) / N, abs=1e-6)


def test_table_shows_every_predictor_on_the_same_samples():
    values = {'a/ade': 0.5, 'a/fde': 1.0, 'a/samples': 7, 'b/ade': 0.75}
    header, _, model, baseline, _, count = comparison_table(
        values, {'a': 'model', 'b': 'baseline'}
    ).splitlines()
    cells = [[cell.strip() for cell in line.split('|')[1:4]] for line in (header, model, baseline)]
    assert cells == [['', 'ADE, m', 'FDE, m'], ['model', '0.500', '1.000'], ['baseline', '0.750', '-']]
    assert '7 held-out samples' in count


def test_predictions_that_are_not_finite_end_the_evaluation():
    metric = OpenLoopMetric()
    rows = [[float('nan')] * 6, [1.0] * 6, [float('inf')] + [1.0] * 5]
    metric.results = [(index, (dict(enumerate(row)), [])) for index, row in enumerate(rows)]
    with pytest.raises(TrainingDivergedError, match='open_loop: .* 2 of 3 samples'):
        metric.evaluate(3)
