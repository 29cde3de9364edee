"""The recording command: bad arguments, folders in use, interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thinktwice.minitown import record

TOOL = Path(__file__).resolve().parents[2] / 'tools/record_minitown.py'
MODALITIES = 12 + 5


def run(*arguments):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('size', (0, 10), 'size must be'),
        ('size', (90, 160, 3), 'size must be'),
        ('frames', -3, 'frames must be'),
        ('frames', 10_000, 'at most 9999'),
        ('routes', 0, 'routes must be'),
        ('seed', -1, 'seed must be'),
        ('workers', 0, 'workers must be'),
        ('towns', ['town08_00'], 'unknown town'),
        ('towns', ['../evil'], 'unknown town'),
        ('towns', ['town01_12'], 'unknown town'),
        ('towns', [], 'at least one town'),
        ('towns', ['town02_00', 'town01_00', 'town02_00'], r'^(?!.*town01_00).*town02_00.*twice'),
        ('field_of_view', 179.0, 'field_of_view'),
    ],
)
def test_arguments_that_make_no_recording_are_refused_before_anything_is_written(
    tmp_path, option, value, message
):
    with pytest.raises(ValueError, match=message):
        record(tmp_path / 'new', **{option: value})
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
    ('folder', 'arguments', 'code', 'message'),
    [('new', ('--size', '0x10'), 2, 'size'), ('file', (), 1, 'is a file')],
)
def test_the_command_reports_an_error_in_one_line(tmp_path, folder, arguments, code, message):
    (tmp_path / 'file').write_text('')
    result = run(tmp_path / folder, *arguments)
    assert result.returncode == code
    assert result.stderr.strip().count('\n') == 0
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


def test_help_shows_an_example():
    result = run('--help')
    assert result.returncode == 0
    assert 'Example: python tools/record_minitown.py' in ' '.join(result.stdout.split())


def small(out, **changes):
    return record(out, **{'routes': 1, 'frames': 2, 'size': (32, 64), **changes})


def test_an_existing_recording_is_kept_without_force_and_replaced_with_it(tmp_path):
    small(tmp_path, seed=1)
    before = (tmp_path / 'dataset_metadata.json').read_bytes()
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='--force'):
        small(tmp_path, seed=2, towns=['town06_00'])
    assert (tmp_path / 'dataset_metadata.json').read_bytes() == before
    small(tmp_path, seed=2, towns=['town06_00'], force=True)
    assert sorted(path.name for path in tmp_path.glob('town*')) == ['town06_00']
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize('force', [False, True])
def test_a_folder_that_is_no_recording_is_never_touched(tmp_path, force):
    (tmp_path / 'town01_00').mkdir()
    (tmp_path / 'town01_00' / 'precious.txt').write_text('real data')
    with pytest.raises(FileExistsError, match='no minitown recording'):
        small(tmp_path, force=force)
    assert [path.name for path in tmp_path.rglob('*')] == ['town01_00', 'precious.txt']


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(NotADirectoryError, match='is a file'):
        small(tmp_path / 'file')


def test_progress_counts_every_frame(tmp_path):
    seen = []
    small(tmp_path / 'a', frames=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 4) for done in range(5)]


def wait_for(condition, process, seconds=60.0):
    """Wait until a condition holds while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, 'the command ended by itself'
        assert time.monotonic() < end
        time.sleep(0.02)


def whole_routes(root, frames):
    """Check that every route folder a reader can see is whole; return how many there are."""
    routes = list(root.glob('town*/routes_*'))
    for route in routes:
        counts = {len(list(folder.iterdir())) for folder in route.iterdir()}
        assert counts == {frames}
        assert len(list(route.iterdir())) == MODALITIES
    return len(routes)


@pytest.mark.parametrize(('number', 'workers'), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGKILL, 1)])
def test_an_interrupted_recording_leaves_whole_routes_only(tmp_path, number, workers):
    root, frames = tmp_path / 'cut', 20
    command = [sys.executable, str(TOOL), str(root), '--routes', '50', '--frames', str(frames)]
    command += ['--size', '48x64', '--workers', str(workers), '--towns', 'town01_00,town06_00']
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(lambda: any(root.glob('town*/routes_*')), process)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does, to the workers too
        else:
            process.kill()
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert whole_routes(root, frames) >= 1
    assert not (root / 'dataset_metadata.json').exists()
    assert not (root / 'dataset_metadata.pkl').exists()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert 'interrupted' in errors.splitlines()[-1]
        assert '--force' in errors.splitlines()[-1]
        assert 'Traceback' not in errors
        assert not (root / '.unfinished').exists()
    # The same folder is recorded again with --force, and nothing of the old run stays.
    small(root, force=True, towns=['town10_00'])
    assert [path.parent.name for path in root.glob('town*/routes_*')] == ['town10_00']
    assert not (root / '.unfinished').exists()
    assert list(json.loads((root / 'dataset_metadata.json').read_text())['towns']) == ['town10_00']
