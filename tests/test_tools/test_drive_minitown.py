"""``tools/drive_minitown.py`` as users run it."""

import json
from pathlib import Path

import cv2
import pytest
import torch
from helpers.commands import REPOSITORY, command, run_python

from thinktwice.apis import init_model
from thinktwice.minitown import Lidar, record

MINITOWN = str(REPOSITORY / 'configs' / 'thinktwice_minitown.py')
drive = command('tools/drive_minitown.py')


def test_the_expert_s_results_are_written_and_shown(tmp_path, capsys):
    out = tmp_path / 'new folder' / 'results.json'
    flags = ['--policy', 'expert', '--routes', '2', '--length', '40', '--seed', '3', '--processes', '1']
    assert drive([*flags, '--out', str(out), '--video', str(tmp_path / 'videos')]) == 0
    shown = capsys.readouterr().out
    routes = json.loads(out.read_text())['_checkpoint']['records']
    assert [route['scores']['score_composed'] for route in routes] == [100.0, 100.0]
    assert all(route['route_id'] in shown for route in routes)
    assert '[2/2]' in shown
    driven = sum(route['meta']['duration_game'] for route in routes)
    assert f'drove {driven:.0f} s in ' in shown
    assert '| mean (infractions per km) | 100.0 ' in shown
    assert drive([*flags, '--video', str(tmp_path / 'few'), '--videos', '1']) == 0
    assert [path.stem for path in (tmp_path / 'few').iterdir()] == [routes[0]['route_id']]
    for route in routes:
        video = cv2.VideoCapture(str(tmp_path / 'videos' / f'{route["route_id"]}.mp4'))
        frames = video.get(cv2.CAP_PROP_FRAME_COUNT)
        assert frames == pytest.approx(10 * route['meta']['duration_game'], abs=1)


@pytest.mark.parametrize(
    ('flags', 'code', 'message'),
    [
        ([], 2, 'CONFIG and CHECKPOINT'),
        ([MINITOWN, 'x.pth', '--policy', 'expert'], 2, 'no CONFIG and CHECKPOINT'),
        (['--policy', 'ego_mlp'], 2, 'needs CONFIG'),
        (['--policy', 'expert', '--length', '0'], 2, '--length'),
        (['--policy', 'expert', '--length', 'inf'], 2, '--length'),
        (['--policy', 'expert', '--length', '1e9'], 2, '--length'),
        (['--policy', 'expert', '--videos', '2'], 2, '--videos needs --video'),
        (['--policy', 'expert', '--towns', 'nowhere', '--processes', '1'], 1, 'nowhere'),
        ([MINITOWN, 'missing.pth', '--processes', '1'], 1, 'missing.pth'),
    ],
)
def test_what_makes_no_drive_is_one_line(flags, code, message, capsys):
    try:
        result = drive(flags)
    except SystemExit as stop:
        result = stop.code
    assert result == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith('error: ')
    assert message in last


def test_what_fails_in_one_of_several_processes_is_one_line():
    finished = run_python('tools/drive_minitown.py', MINITOWN, 'missing.pth', '--processes', '2')
    assert finished.returncode == 1
    assert finished.stderr == 'error: checkpoint missing.pth does not exist\n'


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset and a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp('model')
    towns = ['town01_00', 'town02_00']
    lidar = Lidar(channels=8, columns=90)
    record(folder / 'data', routes=2, frames=8, size=(48, 96), towns=towns, lidar=lidar)
    weights = init_model(MINITOWN, device='cpu', cfg_options={'data_root': str(folder / 'data')}).state_dict()
    torch.save(weights, folder / 'random.pth')
    return folder / 'data', folder / 'random.pth'


@pytest.mark.slow
@pytest.mark.parametrize('policy', ['agent', 'ego_mlp'])
def test_a_model_drives_the_same_twice(policy, model, tmp_path):
    data, weights = model
    sources = [MINITOWN] + ([str(weights)] if policy == 'agent' else [])
    results = []
    for routes, processes in ((6, 1), (6, 2), (2, 1)):
        out = tmp_path / f'{routes}_{processes}.json'
        flags = ['--policy', policy, '--routes', str(routes), '--length', '2', '--processes', str(processes)]
        options = ['--out', str(out), '--cfg-options', f'data_root={data}']
        finished = run_python('tools/drive_minitown.py', *sources, *flags, *options)
        assert finished.returncode == 0, finished.stderr
        results.append(out.read_bytes())
    assert results[0] == results[1]
    few, many = (json.loads(content)['_checkpoint']['records'] for content in (results[2], results[0]))
    assert few == many[:2]  # nor does a route depend on how many others there are
