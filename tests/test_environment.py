import os
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


def test_a_wrong_version_is_named_with_the_command_that_mends_it(installed, capsys) -> None:
    installed['mmdet'] = '3.2.0'
    with pytest.raises(SystemExit) as stopped:
        check_environment()
    assert stopped.value.code == 1
    command = f'{sys.executable} -m pip install --no-deps mmdet==3.3.0'
    message = f'error: mmdet 3.2.0 is installed, 3.3.0 is needed: run `make setup`, or `{command}`\n'
    assert capsys.readouterr().err == message


def test_a_missing_dependency_is_named_in_one_line(installed) -> None:
    installed['lmdb'] = None
    (problem,) = find_problems()
    assert problem.is_fatal
    assert problem.message.startswith('lmdb is missing: run `make setup`, or `')
    assert problem.message.endswith(' -m pip install lmdb==3.0.0`')


def test_another_version_of_a_small_dependency_warns_only(installed, capsys) -> None:
    installed['tqdm'] = '4.0.0'
    check_environment()
    assert capsys.readouterr().err.startswith('warning: tqdm 4.0.0 is installed, ')


def test_only_the_first_process_speaks(installed, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    installed['torch'] = '1.9.0'
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(SystemExit):
        check_environment()
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('version', 'accepted'), [('2.1.0', True), ('2.0.0rc4', True), ('2.2.0', False), ('1.7', False)]
)
def test_the_compiled_mmcv_may_take_the_place_of_the_light_one(
    installed, version: str, accepted: bool
) -> None:
    installed['mmcv-lite'] = None
    installed['mmcv'] = version
    assert [problem.is_fatal for problem in find_problems()] == ([] if accepted else [True])


def test_a_local_version_part_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.importlib.metadata, 'version', lambda name: '2.14.1+cu130')
    assert environment.installed_version('torch') == '2.14.1'


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
    assert len(lines) == len(pinned_requirements())
    assert lines[0].startswith('torch is missing: ')


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


def test_an_interpreter_without_the_package_is_told_what_to_do() -> None:
    command = [sys.executable, '-S', '-E', 'train.py', 'configs/thinktwice.py']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f'error: no thinktwice in {sys.executable}: run `make setup`')
    assert result.stderr.count('\n') == 1
