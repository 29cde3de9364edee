"""The package as it is installed, and the standard library beside a folder named ``code``."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path = ROOT, stdin: str = '', env: dict | None = None) -> str:
    """Run a command; its output, after checking that it succeeded."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_code_and_pdb_are_those_of_the_standard_library_from_the_root() -> None:
    output = run(sys.executable, '-c', 'import code, pdb; print(code.__file__); print(pdb.__file__)')
    standard_library = sysconfig.get_paths()['stdlib']
    assert [str(Path(line).parent) for line in output.split()] == [standard_library] * 2


def test_breakpoint_works_from_the_root() -> None:
    output = run(sys.executable, '-c', 'x = 20\nbreakpoint()\nprint(x)', stdin='p x + 22\ncontinue\n')
    assert '42' in output


def test_pdb_debugs_the_training_command() -> None:
    output = run(sys.executable, '-m', 'pdb', 'train.py', stdin='next\nnext\nquit\n')
    assert 'train.py(1)' in output
    assert 'train.py(3)' in output


def test_the_package_imports_from_any_folder(tmp_path: Path) -> None:
    # a folder of the package's name where Python is started must not hide it
    (tmp_path / 'thinktwice').mkdir()
    output = run(sys.executable, '-c', 'import thinktwice.version as v; print(v.__version__)', cwd=tmp_path)
    assert output.strip()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob('*') if path.is_file() and '__pycache__' not in path.parts]


def test_a_folder_to_work_in_has_the_commands_and_configs(tmp_path: Path) -> None:
    folder = tmp_path / 'new' / 'project'
    run(sys.executable, '-m', 'thinktwice', folder, cwd=tmp_path)
    expected = {path.relative_to(ROOT) for name in ('tools', 'configs') for path in files_in(ROOT / name)}
    assert {path.relative_to(folder) for path in files_in(folder)} == {*expected, Path('train.py')}
    output = run(sys.executable, 'tools/print_config.py', 'configs/thinktwice.py', cwd=folder)
    assert 'EncoderDecoder' in output


def test_files_of_a_folder_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'train.py').write_text('mine')
    command = [sys.executable, '-m', 'thinktwice', str(tmp_path)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f'error: {tmp_path} already has train.py')
    assert [path.name for path in tmp_path.iterdir()] == ['train.py']
    assert (tmp_path / 'train.py').read_text() == 'mine'


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that the checkout gets no build folder."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for name in ('code', 'requirements', 'tools', 'configs'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'train.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet')
    run(*pip, 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', folder, source)
    return next(folder.glob('thinktwice-*.whl'))


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {f'thinktwice/{path.relative_to(ROOT / "code")}' for path in files_in(ROOT / 'code')}
    expected |= {f'thinktwice/requirements/{path.name}' for path in (ROOT / 'requirements').glob('*.txt')}
    project = [*files_in(ROOT / 'tools'), *files_in(ROOT / 'configs'), ROOT / 'train.py']
    expected |= {f'thinktwice/project/{path.relative_to(ROOT)}' for path in project}
    assert not sorted(expected - held)
    assert {name.split('/')[0] for name in held if '.dist-info/' not in name} == {'thinktwice'}


@pytest.fixture(scope='module')
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp('venv')
    venv.create(folder, with_pip=False)
    python = folder / 'bin' / 'python'
    site = packages_of(python)
    run(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', site, wheel)
    # the dependencies of this environment, but not its editable install, which is a .pth file
    (site / 'dependencies.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')
    return python


def packages_of(python: Path) -> Path:
    return Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])').strip())


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_of_its_own(python: Path, tmp_path: Path) -> None:
    script = (
        'import code, pdb, thinktwice.datasets, thinktwice.model_code, thinktwice.apis, thinktwice.minitown\n'
        'import thinktwice.encoder_decoder_framework\n'
        'from thinktwice.environment import check_environment\n'
        'check_environment()\n'
        'print(thinktwice.datasets.__file__)\n'
        'print(code.__file__)\n'
    )
    ours, standard = run(python, '-c', script, cwd=tmp_path).split()
    assert Path(ours).is_relative_to(packages_of(python))
    assert Path(standard).parent == Path(sysconfig.get_paths()['stdlib'])


@pytest.mark.slow
def test_the_wheel_records_and_trains_in_any_folder(python: Path, tmp_path: Path) -> None:
    run(python, '-m', 'thinktwice', 'project', cwd=tmp_path)
    folder = tmp_path / 'project'
    towns = ('--routes', '2', '--frames', '10', '--size', '72x128')
    run(python, 'tools/record_minitown.py', 'dataset/minitown', *towns, cwd=folder)
    options = ('--cfg-options', 'train_cfg.max_iters=2', 'batch_size=2')
    run(python, 'train.py', 'configs/thinktwice_minitown.py', *options, cwd=folder)
    assert list((folder / 'work_dirs' / 'thinktwice_minitown').glob('*.pth'))
