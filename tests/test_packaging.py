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


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that the checkout gets no build folder."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for name in ('code', 'requirements'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet')
    run(*pip, 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', folder, source)
    return next(folder.glob('thinktwice-*.whl'))


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    code = ROOT / 'code'
    files = [path for path in code.rglob('*') if path.is_file() and '__pycache__' not in path.parts]
    expected = {f'thinktwice/{path.relative_to(code)}' for path in files}
    expected |= {f'thinktwice/requirements/{path.name}' for path in (ROOT / 'requirements').glob('*.txt')}
    assert not sorted(expected - held)
    assert {name.split('/')[0] for name in held if '.dist-info/' not in name} == {'thinktwice'}


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / 'venv', with_pip=False)
    python = tmp_path / 'venv' / 'bin' / 'python'
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])').strip())
    run(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', site, wheel)
    # the dependencies of this environment, but not its editable install, which is a .pth file
    (site / 'dependencies.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')
    script = (
        'import code, pdb, thinktwice.datasets, thinktwice.model_code, thinktwice.apis, thinktwice.minitown\n'
        'import thinktwice.encoder_decoder_framework\n'
        'from thinktwice.environment import check_environment\n'
        'check_environment()\n'
        'print(thinktwice.datasets.__file__)\n'
        'print(code.__file__)\n'
    )
    ours, standard = run(python, '-c', script, cwd=tmp_path).split()
    assert Path(ours).is_relative_to(site)
    assert Path(standard).parent == Path(sysconfig.get_paths()['stdlib'])
