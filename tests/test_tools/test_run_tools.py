"""Commands around training as users type them."""

import json
import os
import subprocess
import sys

import pytest
from helpers.commands import REPOSITORY, command, load_command, run_python
from safetensors import safe_open

from thinktwice.apis import init_model

MINITOWN = str(REPOSITORY / 'configs' / 'thinktwice_minitown.py')
#: All but the agent, which the leaderboard imports.
COMMANDS = ['train.py', *sorted({f'tools/{path.name}' for path in (REPOSITORY / 'tools').glob('*.py')})]
COMMANDS.remove('tools/carla_agent.py')
RUN_AND_LIST_IMPORTS = """
import atexit, runpy, sys
atexit.register(lambda: sys.stderr.write('imported: ' + ' '.join(sys.modules)))
runpy.run_path(sys.argv[1], run_name='__main__')
"""


@pytest.mark.parametrize('path', COMMANDS)
def test_help_and_wrong_flags_are_answered_before_torch_is_imported(path):
    for flag, code in (('--help', 0), ('--no-such-flag', 2)):
        result = subprocess.run(
            [sys.executable, '-c', RUN_AND_LIST_IMPORTS.replace('sys.argv[1]', repr(path)), flag],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        messages, _, imported = result.stderr.partition('imported: ')
        assert result.returncode == code, result.stderr
        assert {'torch', 'numpy', 'mmengine', 'cv2'}.isdisjoint(imported.split())
        assert 'thinktwice.command_line' in imported.split()
        if code:
            assert messages.startswith('error: ')
            assert messages.count('\n') == 1
        else:
            assert result.stdout.startswith('usage: ')


@pytest.mark.parametrize('place', ['argument', 'current folder'])
def test_path_that_the_locale_cannot_decode_is_one_line(tmp_path, place):
    folder = tmp_path / 'données'
    folder.mkdir()
    arguments = [MINITOWN, '--out', str(folder / 'out.py')] if place == 'argument' else [MINITOWN]
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / 'tools' / 'print_config.py'), *arguments],
        cwd=folder if place == 'current folder' else REPOSITORY,
        env={**os.environ, 'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert 'set PYTHONUTF8=1' in line
    assert 'donn' in line


def test_print_config_shows_what_a_run_would_use(capsys, tmp_path):
    print_config = command('tools/print_config.py')
    assert print_config([MINITOWN, '--cfg-options', 'is_dev=True', 'image_size=(32,64)']) == 0
    text = capsys.readouterr().out
    assert '${' not in text
    namespace: dict = {}
    exec(text, namespace)  # a printed config is a config
    assert namespace['train_dataloader']['num_workers'] == 0
    assert namespace['train_dataloader']['dataset']['pipeline'][2]['image_size'] == (32, 64)
    written = tmp_path / 'new folder' / 'written.py'
    assert print_config([MINITOWN, '--out', str(written)]) == 0
    assert "type='EncoderDecoder'" in written.read_text()
    capsys.readouterr()
    for place in (tmp_path, '.', '/'):
        assert print_config([MINITOWN, '--out', str(place)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f'error: cannot write {place}: it is a folder; give the name of a file'


@pytest.mark.parametrize('arguments', [['train.py', '{}.py'], ['train.py', MINITOWN, '--load-from', '{}']])
def test_name_that_is_too_long_is_one_line(capsys, tmp_path, arguments):
    path, *flags = (argument.format('a' * 300) for argument in arguments)
    assert command(path)([*flags, '--work-dir', str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: File name too long: aaa')


@pytest.mark.parametrize('name', ['loader', 'scaling', 'step'])
def test_benchmark_names_what_a_config_lacks(capsys, tmp_path, name):
    config = tmp_path / 'empty.py'
    config.write_text('is_dev = False\n')
    assert command('tools/benchmark.py')([name, str(config)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f'config {config} has no' in line and 'train_dataloader' in line


def test_checkpoint_is_evaluated_alone(tmp_path):
    config = 'tests/helpers/toy_config.py'
    trained = run_python(
        'train.py', config, f'--work-dir={tmp_path}', '--cfg-options', 'train_cfg.max_epochs=1'
    )
    assert trained.returncode == 0, trained.stderr
    out = tmp_path / 'a new folder' / 'metrics.json'
    result = run_python(
        *('tools/test.py', config, str(tmp_path / 'epoch_1.pth')),
        *(f'--work-dir={tmp_path / "test"}', f'--out={out}', '--reliance'),
    )
    assert result.returncode == 0, result.stderr
    scalars = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    during_training = next(line for line in map(json.loads, scalars) if 'val/open_loop/ade' in line)
    metrics = json.loads(out.read_text())
    assert metrics['open_loop/ade'] == pytest.approx(during_training['val/open_loop/ade'])
    # the speed is all that a toy model has
    assert metrics['reliance/speed/open_loop/ade'] > metrics['open_loop/ade']
    assert 'exchanged input' in result.stdout + result.stderr


def test_demo_holds_out_towns_that_training_never_sees():
    demo_towns = load_command('tools/run_demo.py')['demo_towns']
    towns = demo_towns(26)
    held_out = {town for town in towns if town[:6] in ('town02', 'town05')}
    assert len(set(towns)) == 26
    assert len(held_out) == 5
    assert {town[:6] for town in towns} - {town[:6] for town in held_out} == {
        'town01',
        'town03',
        'town04',
        'town06',
    }
    assert len(demo_towns(5)) == 5


@pytest.mark.slow
def test_demo_from_nothing_to_pictures_and_again(tmp_path):
    command = (
        *('tools/run_demo.py', '--data', str(tmp_path / 'data'), '--out', str(tmp_path / 'out')),
        *('--routes', '5', '--frames', '14', '--size', '72x128', '--pictures', '2', '--drives', '1'),
        *('--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.max_iters=2'),
    )
    result = run_python(*command)
    output = result.stdout + result.stderr
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    # two steps of training can't beat a baseline, and the demo says so
    assert result.returncode == 1, output
    assert 'The model does not beat: constant velocity' in output
    assert results['open_loop/samples'] == results['constant_velocity/samples'] > 0
    assert len(list((tmp_path / 'out' / 'pictures').glob('*.png'))) == 2
    assert results['ego_mlp/ade'] > 0
    assert results['reliance/images/open_loop/ade'] > 0
    tables = (tmp_path / 'out' / 'results.txt').read_text()
    assert 'constant velocity' in tables and 'driving score' in tables
    for policy in ('expert', 'agent', 'ego_mlp', 'lane', 'constant'):
        scores = json.loads((tmp_path / 'out' / 'driving' / f'{policy}.json').read_text())
        assert len(scores['_checkpoint']['records']) == 1
    assert list((tmp_path / 'out' / 'driving' / 'videos').glob('*.mp4'))
    (published,) = (tmp_path / 'out' / 'published').glob('thinktwice_minitown_stage2-*.safetensors')
    metrics = json.loads(safe_open(published, 'pt').metadata()['metrics'])
    assert metrics['open_loop/ade'] == results['open_loop/ade']
    assert not [key for key in metrics if key.startswith(('reliance/', 'constant_velocity/'))]
    init_model(published.with_suffix('.py'), published, 'cpu')
    again = run_python(*command)
    assert 'holds drives already' in again.stdout
    assert len(list(published.parent.glob('*.safetensors'))) == 1


def test_gpu_check_without_a_gpu_says_so_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    result = run_python('tools/gpu_check.py', '--report', str(tmp_path / 'report.md'))
    assert result.returncode == 1
    assert 'no CUDA device' in result.stderr and result.stderr.count('\n') == 1
    assert not any(tmp_path.iterdir())
