import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from thinktwice import environment
from thinktwice.environment import check_environment, find_problems, pinned_requirements

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions that seem to be installed: the pinned ones, to be changed by the test."""
    versions: dict[str, str | None] = {item.name: item.version for item in pinned_requirements()}
    monkeypatch.setattr(environment, 'installed_version', lambda name: versions.get(name))
    return versions


def test_nothing_is_said_when_all_is_as_pinned(installed, capsys: pytest.CaptureFixture) -> None:
    check_environment()
    assert capsys.readouterr().err == ''


def test_a_wrong_version_is_named_with_the_command_that_fixes_it(installed, capsys) -> None:
    installed['mmdet'] = '3.2.0'
    with pytest.raises(SystemExit) as stopped:
        check_environment()
    assert stopped.value.code == 1
    command = f'{sys.executable} -m pip install --no-deps mmdet==3.3.0'
    message = f'error: mmdet 3.2.0 is installed, 3.3.0 is needed: run `make setup`, or `{command}`, '
    assert capsys.readouterr().err == f'{message}or set THINKTWICE_SKIP_VERSION_CHECK=1 to start anyway\n'


def test_a_missing_dependency_is_named_in_one_line(installed) -> None:
    installed['lmdb'] = None
    (problem,) = find_problems()
    assert problem.is_fatal
    assert problem.message.startswith('lmdb is missing: run `make setup`, or `')
    assert problem.message.endswith(' -m pip install lmdb==3.0.0`')


def test_all_missing_packages_of_openmmlab_are_added_by_one_command(installed) -> None:
    installed.update(dict.fromkeys(('mmengine', 'mmcv-lite', 'mmdet', 'mmdet3d')))
    (problem,) = find_problems()
    assert problem.message.startswith('mmengine, mmcv-lite, mmdet, mmdet3d are missing: ')
    pins = 'mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0 mmdet3d==1.4.0'
    assert problem.message.endswith(f'{sys.executable} -m pip install --no-deps {pins}`')


def test_another_version_of_a_small_dependency_warns_only(installed, capsys) -> None:
    installed['tqdm'] = '4.0.0'
    check_environment()
    assert capsys.readouterr().err.startswith('warning: tqdm 4.0.0 is installed, ')


@pytest.mark.parametrize(
    ('version', 'is_fatal'),
    [('2.14.0', False), ('2.14.0a0+b4f5b9d', False), ('2.15.1', True), ('2.1.1', True), ('3.14.1', True)],
)
def test_another_patch_of_torch_warns_and_another_minor_version_is_refused(
    installed, version: str, is_fatal: bool
) -> None:
    installed['torch'] = version
    (problem,) = find_problems()
    assert problem.is_fatal == is_fatal
    assert problem.message.startswith(f'torch {version.partition("+")[0]} is installed, ')


@pytest.mark.parametrize('name', ['torch', 'mmengine', 'mmdet3d', 'mmcv-lite', 'mmcv'])
def test_the_variable_lets_other_versions_start_with_a_warning(
    installed, name: str, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == 'mmcv':
        installed['mmcv-lite'] = None
    installed[name] = '9.0.0'
    with pytest.raises(SystemExit):
        check_environment()
    assert capsys.readouterr().err.startswith(f'error: {name} 9.0.0 is installed, ')
    monkeypatch.setenv('THINKTWICE_SKIP_VERSION_CHECK', '1')
    check_environment()
    assert capsys.readouterr().err.startswith(f'warning: {name} 9.0.0 is installed, ')


def test_the_variable_does_not_replace_what_is_missing(installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed['mmdet'] = None
    monkeypatch.setenv('THINKTWICE_SKIP_VERSION_CHECK', '1')
    with pytest.raises(SystemExit):
        check_environment()


@pytest.mark.parametrize(
    ('version', 'is_supported'),
    [((3, 10, 14), False), ((3, 11, 0), True), ((3, 13, 5), True), ((3, 14, 0), False), ((4, 0, 0), False)],
)
def test_other_versions_of_python_are_refused_in_one_line(
    installed, version: tuple[int, int, int], is_supported: bool, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '.'.join(map(str, version))
    monkeypatch.setattr(environment.sys, 'version_info', version)
    monkeypatch.setattr(environment.platform, 'python_version', lambda: text)
    installed['numba'] = None  # packages of the wrong interpreter are not listed
    with pytest.raises(SystemExit):
        check_environment()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: numba ' if is_supported else f'error: Python {text} is not supported, ')
    if not is_supported:
        monkeypatch.setenv('THINKTWICE_SKIP_VERSION_CHECK', '1')
        assert [problem.is_fatal for problem in find_problems()] == [False, True]


def test_every_file_names_the_same_versions_of_python() -> None:
    oldest, newest = environment.OLDEST_PYTHON, environment.NEWEST_PYTHON
    assert f"python_requires='>=3.{oldest[1]},<3.{newest[1] + 1}'" in (ROOT / 'setup.py').read_text()
    assert f'target-version = "py3{oldest[1]}"' in (ROOT / 'pyproject.toml').read_text()
    assert f'Python 3.{oldest[1]} to 3.{newest[1]}' in (ROOT / 'README.md').read_text(encoding='utf-8')
    assert f'{oldest} <= sys.version_info[:2] <= {newest}' in (ROOT / 'Makefile').read_text()


def test_make_setup_refuses_an_unsupported_python_in_one_line(tmp_path: Path) -> None:
    for name in ('Makefile', 'setup.py'):
        shutil.copy(ROOT / name, tmp_path)
    other_python = tmp_path / 'python3.10'
    other_python.write_text('#!/bin/sh\nexit 1\n')  # what it answers to every test of its version
    other_python.chmod(0o755)
    result = subprocess.run(
        ['make', 'setup', f'SYSTEM_PYTHON={other_python}'],
        cwd=tmp_path,
        # within `make test` it would print the folders that it enters
        env={name: value for name, value in os.environ.items() if name not in ('MAKELEVEL', 'MAKEFLAGS')},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    reasons = [line for line in result.stdout.splitlines() if 'Python 3.11 to 3.13' in line]
    assert len(reasons) == 1, result.stdout
    assert 'Traceback' not in result.stdout + result.stderr
    assert not (tmp_path / '.venv').exists()


def test_only_rank_0_prints(installed, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    installed['torch'] = '1.9.0'
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(SystemExit):
        check_environment()
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('version', 'accepted'), [('2.1.0', True), ('2.0.0rc4', True), ('2.2.0', False), ('1.7', False)]
)
def test_the_compiled_mmcv_may_replace_the_light_one(installed, version: str, accepted: bool) -> None:
    installed['mmcv-lite'] = None
    installed['mmcv'] = version
    assert [problem.is_fatal for problem in find_problems()] == ([] if accepted else [True])


def test_a_local_version_part_does_not_matter(installed) -> None:
    installed['torch'] += '+cu130'
    assert find_problems() == []


def test_every_requirement_is_pinned_to_one_version() -> None:
    for file in (ROOT / 'requirements').glob('*.txt'):
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith('#')]
        assert lines
        assert all(line.count('==') == 1 for line in lines), file


def test_the_check_runs_where_nothing_is_installed() -> None:
    command = [sys.executable, '-S', '-E', str(ROOT / 'code' / 'environment.py')]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 3  # one per file of pins
    assert lines[0].startswith('torch, torchvision are missing: ')
    assert all(f' {item.name}=={item.version}' in result.stderr for item in pinned_requirements())


def test_training_stops_with_the_line_before_anything_is_imported(tmp_path: Path) -> None:
    metadata = tmp_path / 'mmdet3d-1.3.0.dist-info' / 'METADATA'
    metadata.parent.mkdir()
    metadata.write_text('Metadata-Version: 2.1\nName: mmdet3d\nVersion: 1.3.0\n')
    (tmp_path / 'torch.py').write_text('raise RuntimeError("torch was imported before the check")\n')
    result = subprocess.run(
        [sys.executable, 'train.py', 'configs/thinktwice.py'],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[0].startswith('error: mmdet3d 1.3.0 is installed, 1.4.0 is needed: ')
    assert 'Traceback' not in result.stderr


def test_the_environment_lists_versions_and_devices() -> None:
    described = environment.collect_environment()
    assert described['mmengine'] == '0.10.7'
    assert described['cpu threads'].isdigit()


def test_print_env_shows_problems_and_the_table(installed, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    installed['tqdm'] = '4.0.0'
    monkeypatch.setattr(sys, 'argv', ['print_env.py'])
    runpy.run_path(str(ROOT / 'tools' / 'print_env.py'), run_name='__main__')
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('! tqdm 4.0.0 is installed, ')
    rows = {cells[1].strip(): cells[2].strip() for cells in (line.split('|') for line in lines[1:])}
    assert rows['mmengine'] == '0.10.7'
    assert rows['tqdm'] == '4.0.0'


def test_a_run_records_its_environment_and_what_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        command = ['git', '-C', str(checkout), '-c', 'user.name=x', '-c', 'user.email=x@y.z', *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    checkout, logs = tmp_path / 'checkout', tmp_path / 'logs'
    shutil.copytree(ROOT / 'requirements', checkout / 'requirements')
    logs.mkdir()
    monkeypatch.setattr(environment, 'CHECKOUT', checkout)
    assert 'git commit' not in environment.collect_environment()
    git('init', '--initial-branch=trunk')
    (checkout / 'file').write_text('one\n')
    git('add', 'file')
    git('commit', '--message=first')
    described = environment.collect_environment()
    assert described['git commit'] == f'{git("rev-parse", "HEAD")} (trunk)'
    environment.write_environment(logs, described)
    assert json.loads((logs / 'environment.json').read_text())['environment'] == described
    assert not (logs / 'uncommitted.diff').exists()
    (checkout / 'file').write_text('two\n')
    described = environment.collect_environment()
    assert described['git commit'] == f'{git("rev-parse", "HEAD")}-dirty (trunk)'
    environment.write_environment(logs, described)
    assert '+two' in (logs / 'uncommitted.diff').read_text().splitlines()


def test_an_interpreter_without_the_package_is_told_what_to_do() -> None:
    command = [sys.executable, '-S', '-E', 'train.py', 'configs/thinktwice.py']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f'error: no thinktwice in {sys.executable}: run `make setup`')
    assert result.stderr.count('\n') == 1
