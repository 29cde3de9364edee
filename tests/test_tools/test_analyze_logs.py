"""``tools/analyze_logs.py`` on written logs, against values worked out by hand or by ``statistics``."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from helpers.commands import command, load_command

analyze = command('tools/analyze_logs.py')
names = load_command('tools/analyze_logs.py')
CONFIG = """lr = {lr}
model = dict(type='Planner', layers=[dict(type='A', width=4), dict(type='B')])
randomness = dict(seed={seed})
work_dir = '{folder}'
"""
ADE = 'val/open_loop/ade'


def write_start(folder: Path, lines: Sequence[Mapping[str, float]], lr: float = 0.1, seed: int = 0) -> Path:
    """Write what one start of a training logs."""
    (folder / 'vis_data').mkdir(parents=True)
    (folder / 'vis_data' / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (folder / 'vis_data' / 'config.py').write_text(CONFIG.format(lr=lr, seed=seed, folder=folder))
    return folder


def train(iteration: int, loss: float, **values: float) -> dict[str, float]:
    logged = {f'train/{name}': value for name, value in values.items()}
    return {'train/loss': loss, **logged, 'epoch': 1, 'iter': iteration, 'step': iteration}


def write_run(folder: Path, ade: float, seed: int, **options: float) -> Path:
    """Write a finished run with one evaluation."""
    lines = [train(10, 5.0, time=0.5, data_time=0.1), {ADE: ade, 'val/open_loop/samples': 9, 'step': 1}]
    write_start(folder / '20260101_000000', lines, seed=seed, **options)
    return folder


def cells(output: str, start: str) -> list[str]:
    """Cells of the table row that begins with a text."""
    (row,) = [line for line in output.splitlines() if line.startswith((f'| {start} ', f'| {start}, '))]
    return [cell.strip() for cell in row.strip('|').split('|')]


def test_final_and_best_values_are_those_of_the_log(tmp_path, capsys):
    losses = [4.0, 2.5, math.nan, 3.0]
    lines: list[dict] = []
    for index, loss in enumerate(losses):
        lines.append(train(10 * index + 10, loss, time=0.2 + index / 10, data_time=0.1, lr=0.5))
        lines.append({ADE: [3.0, 1.25, 1.5, 2.0][index], 'val/perception/car/iou': index / 10, 'step': index})
    write_start(tmp_path / 'mine' / '20260101_000000', lines)
    assert analyze([str(tmp_path / 'mine'), '--keys', '.']) == 0
    output = capsys.readouterr().out
    assert cells(output, 'train/loss')[1:] == ['3', '2.5 at 20']
    assert cells(output, ADE)[1:] == ['2', '1.25 at 20']
    assert cells(output, 'val/perception/car/iou')[1:] == ['0.3', '0.3 at 40']
    assert cells(output, 'train/lr')[1:] == ['0.5', '-']
    # medians: 0.35 s a step, of which 0.1 s are waiting
    assert cells(output, 'mine')[1:] == ['training step', '0.35', '0.1', '0.25', '29%']


def test_metrics_of_parts_are_shown_when_asked_for(tmp_path, capsys):
    part = 'val/open_loop/town/town02/ade'
    write_start(tmp_path / 'run' / '20260101_000000', [train(1, 1.0), {ADE: 1.0, part: 2.0, 'step': 1}])
    assert analyze([str(tmp_path / 'run')]) == 0
    assert part not in capsys.readouterr().out
    assert analyze([str(tmp_path / 'run'), '--keys', 'town']) == 0
    output = capsys.readouterr().out
    assert part in output and 'train/loss' not in output


def test_what_a_resumed_run_logs_again_replaces_the_earlier_values(tmp_path):
    folder = tmp_path / 'run'
    first = [train(10, 9.0), {ADE: 8.0, 'step': 1}, train(20, 7.0), {ADE: 6.0, 'step': 2}, train(30, 5.0)]
    write_start(folder / '20260101_000000', first)
    write_start(folder / '20260102_000000', [train(20, 4.0), {ADE: 3.0, 'step': 2}], lr=0.2)
    run = names['read_run'](folder, 'run')
    assert run.curves['train/loss'] == [(10, 9.0), (20, 4.0)]
    assert run.curves[ADE] == [(10, 8.0), (20, 3.0)]
    assert run.config['lr'] == '0.2'


def test_differences_of_configs_are_named_by_key(tmp_path, capsys):
    one = write_run(tmp_path / 'one', 1.0, seed=3)
    two = write_run(tmp_path / 'two', 1.0, seed=3, lr=0.25)
    assert analyze([str(one), str(two)]) == 0
    output = capsys.readouterr().out
    assert cells(output, 'lr') == ['lr', '0.1', '0.25']
    assert 'work_dir' not in output and 'seed' not in output
    assert analyze([str(one), str(write_run(tmp_path / 'three', 1.0, seed=3))]) == 0
    assert 'The configs are equal' in capsys.readouterr().out
    config = names['read_run'](one, 'one').config
    assert config['model.layers.0.width'] == '4'
    assert config['model.layers.1.type'] == "'B'"


def groups(tmp_path: Path, **values: Sequence[float]) -> list[str]:
    """Arguments for groups of written runs with these final errors."""
    arguments = []
    for name, errors in values.items():
        runs = [write_run(tmp_path / f'{name}{seed}', ade, seed) for seed, ade in enumerate(errors)]
        arguments += ['--group', f'{name}={",".join(map(str, runs))}']
    return arguments


def test_planted_differences_are_told_apart_and_equal_groups_are_not(tmp_path, capsys):
    close = np.random.default_rng(0).normal(2.0, 0.1, size=(2, 5)).tolist()
    far = [2.9, 3.0, 3.1, 3.0, 2.95]
    assert analyze(groups(tmp_path, a=close[0], b=close[1], c=far)) == 0
    row = cells(capsys.readouterr().out, ADE)
    # quantile 0.975 of Student's t with 4 degrees of freedom, from a table
    for cell, errors in zip(row[1:4], (*close, far), strict=True):
        mean, margin = map(float, cell.split(' ± '))
        assert mean == pytest.approx(statistics.mean(errors), rel=1e-3)
        assert margin == pytest.approx(2.776 * statistics.stdev(errors) / math.sqrt(5), rel=0.05)
    assert row[4] == 'a is better than c; b is better than c'


@pytest.mark.parametrize(
    ('second', 'expected'),
    [
        ([4.0, 6.0], 'no difference shown'),
        ([26.3, 28.3], 'no difference shown'),
        ([26.5, 28.5], 'a is better'),
    ],
)
def test_a_difference_is_shown_only_where_intervals_do_not_overlap(tmp_path, capsys, second, expected):
    # each interval reaches 12.7 to both sides: quantile of t with 1 degree of freedom, standard error 1
    assert analyze(groups(tmp_path, a=[1.0, 3.0], b=second)) == 0
    output = capsys.readouterr().out
    assert cells(output, ADE)[3] == expected
    assert cells(output, 'train/loss')[3] == 'no difference shown'


@pytest.mark.parametrize(
    ('key', 'expected'),
    [
        ('train/BEV_feature_loss2', 'a is better'),
        ('train/data_time', 'a is better'),
        ('val/perception/car/recall_near', 'b is better'),
        ('train/samples_per_second', 'b is better'),
        ('train/loss_scale', 'b is higher'),
        ('train/lr', 'b is higher'),
    ],
)
def test_better_is_said_only_of_values_whose_direction_is_known(key, expected):
    assert names['verdict'](key, {'a': [1.0, 1.1, 0.9], 'b': [2.0, 2.1, 1.9]}) == expected


def test_a_diverged_run_is_not_left_out_of_its_group(tmp_path, capsys):
    assert analyze(groups(tmp_path, a=[1.0, 1.1, math.nan], b=[4.0, 4.1, 4.2])) == 0
    assert cells(capsys.readouterr().out, ADE)[1:] == [
        '-',
        '4.1 ± 0.25',
        'not compared: missing or not finite in a',
    ]


def test_groups_that_are_not_seeds_of_one_config_are_noted(tmp_path, capsys):
    one, two = write_run(tmp_path / 'one', 1.0, seed=1), write_run(tmp_path / 'two', 1.0, seed=1, lr=0.5)
    assert analyze(['--group', f'a={one},{two}']) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith('note: ')]
    assert len(notes) == 2
    assert 'differ in more than the seed: lr' in notes[0]
    assert 'one seed' in notes[1]
    assert analyze(groups(tmp_path, b=[1.0, 2.0])) == 0
    assert 'note' not in capsys.readouterr().out


def test_curves_are_written_as_png(tmp_path, capsys):
    run = write_run(tmp_path / 'run', 1.0, seed=0)
    out = tmp_path / 'new folder' / 'curves.png'
    assert analyze([str(run), '--out', str(out)]) == 0
    picture = matplotlib.image.imread(out)
    assert picture.ndim == 3 and picture.shape[1] > 1000
    blue = np.abs(picture[..., :3] - np.array([0x00, 0x72, 0xB2]) / 255).max(-1) < 0.05
    assert blue.any()  # the points of the curves


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"train/loss": 1.0, "iter": 1, "step": 1}\n{"train/loss": 1.', 'cut short after line 1'),
        ('[1, 2]\n', 'not a dict of numbers'),
        ('{"train/loss": "low"}\n', 'not a dict of numbers'),
        ('\xff\xfe', 'damaged'),
        ('', 'no values'),
    ],
)
def test_damaged_logs_end_in_one_line(tmp_path, capsys, content, message):
    run = write_run(tmp_path / 'run', 1.0, seed=0)
    file = next(run.glob('*/vis_data/scalars.json'))
    file.write_bytes(content.encode('latin-1'))
    assert analyze([str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and str(run) in line


def test_missing_and_damaged_files_end_in_one_line(tmp_path, capsys):
    run = write_run(tmp_path / 'run', 1.0, seed=0)
    (tmp_path / 'empty').mkdir()
    config = next(run.glob('*/vis_data/config.py'))
    for arguments, message in (
        ([tmp_path / 'none'], 'does not exist'),
        ([tmp_path / 'empty'], 'no values'),
        ([run, run], 'given twice'),
        ([run, '--keys', 'nothing'], 'no logged name matches'),
        ([run, '--out', tmp_path], 'cannot write'),
    ):
        assert analyze(list(map(str, arguments))) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    config.write_text(config.read_text()[:-10])
    assert analyze([str(run)]) == 1
    assert 'config.py is damaged' in capsys.readouterr().err
    config.unlink()
    assert analyze([str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'config.py' in line


@pytest.mark.parametrize(
    'arguments', [[], ['run', '--group', 'a=b,c'], ['--group', 'a=b'], ['run', '--keys', '(']]
)
def test_wrong_usage_is_refused(capsys, arguments):
    with pytest.raises(SystemExit) as leave:
        analyze(arguments)
    assert leave.value.code == 2
    assert capsys.readouterr().err.count('\n') == 1
