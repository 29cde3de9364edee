"""What a command runs on: the check of installed versions at its start, and the report of the environment.

Outside of functions only the standard library is imported, so that the check works where torch or
mmengine are missing. Annotations are not evaluated, so that an old Python gets as far as being refused.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
"""mmengine 0.10.7 does not import on Python 3.14, the pinned numpy and scipy do not install on 3.10."""

SKIP_VARIABLE = 'THINKTWICE_SKIP_VERSION_CHECK'
"""Set to 1, a version that is not supported only warns: for containers with builds of their own."""

MATCHING_PARTS = {'torch.txt': 2, 'openmmlab.txt': 3, 'runtime.txt': 0}
"""Leading parts of a version that must equal those of the pin, by requirements file; others only warn."""

NO_DEPENDENCIES_FILE = 'openmmlab.txt'
"""pip must not install what these packages declare; see the comment in the file."""

ALTERNATIVES = {'mmcv-lite': ('mmcv', ('2.0.', '2.1.'))}
"""What may replace a pinned package: its name and how its supported versions begin."""


@dataclass(frozen=True)
class Requirement:
    """One pinned package.

    Attributes:
        name: Name of the distribution.
        version: Pinned version.
        file: Name of the requirements file that pins it.
    """

    name: str
    version: str
    file: str


@dataclass(frozen=True)
class Problem:
    """A missing package, or a version that is not the tested one.

    Attributes:
        message: What is wrong and how to fix it, one line.
        is_fatal: Whether commands refuse to start.
    """

    message: str
    is_fatal: bool


def check_environment() -> None:
    """Print the problems to stderr, a line each; call it before torch or mmengine are imported.

    Raises:
        SystemExit: With code 1, if a problem is fatal.
    """
    problems = find_problems()
    if os.environ.get('RANK', '0') == '0':
        for problem in problems:
            sys.stderr.write(f'{"error" if problem.is_fatal else "warning"}: {problem.message}\n')
    if any(problem.is_fatal for problem in problems):
        raise SystemExit(1)


def find_problems() -> list[Problem]:
    """Compare the interpreter and the installed packages with what was tested."""
    skips = os.environ.get(SKIP_VARIABLE) == '1'
    problems = []
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        oldest, newest = ('.'.join(map(str, version)) for version in (OLDEST_PYTHON, NEWEST_PYTHON))
        message = (
            f'Python {platform.python_version()} is not supported, {oldest} to {newest} are: '
            f'run `make setup SYSTEM_PYTHON=python{oldest}`'
        )
        if not skips:  # what is installed for this interpreter does not matter
            return [Problem(message, True)]
        problems.append(Problem(message, False))
    missing: dict[str, list[Requirement]] = {file: [] for file in MATCHING_PARTS}
    for requirement in pinned_requirements():
        name, version = _installed(requirement)
        if version is None:
            missing[requirement.file].append(requirement)
        elif problem := _compare(requirement, name, version, skips):
            problems.append(problem)
    for requirements in filter(None, missing.values()):
        names = ', '.join(requirement.name for requirement in requirements)
        verb = 'is' if len(requirements) == 1 else 'are'
        problems.append(Problem(f'{names} {verb} missing: {_remedy(requirements)}', True))
    return problems


def _remedy(requirements: list[Requirement]) -> str:
    """The command that installs requirements of one file."""
    no_dependencies = '--no-deps ' if requirements[0].file == NO_DEPENDENCIES_FILE else ''
    pins = ' '.join(f'{requirement.name}=={requirement.version}' for requirement in requirements)
    command = f'{sys.executable} -m pip install {no_dependencies}{pins}'
    in_checkout = _requirements_folder().parent == CHECKOUT
    return f'run `make setup`, or `{command}`' if in_checkout else f'run `{command}`'


def _compare(requirement: Requirement, name: str, version: str, skips: bool) -> Problem | None:
    version = version.partition('+')[0]  # without the local part, such as +cu130
    if name == requirement.name:
        parts = MATCHING_PARTS[requirement.file]
        is_tested = version == requirement.version
        is_supported = version.split('.')[:parts] == requirement.version.split('.')[:parts]
    else:
        is_tested = is_supported = version.startswith(ALTERNATIVES[requirement.name][1])
    if is_tested:
        return None
    pin = f'{requirement.version} of {requirement.name}' if name != requirement.name else requirement.version
    if is_supported or skips:
        return Problem(f'{name} {version} is installed, tested is {pin}: {_remedy([requirement])}', False)
    remedy = f'{_remedy([requirement])}, or set {SKIP_VARIABLE}=1 to start anyway'
    return Problem(f'{name} {version} is installed, {pin} is needed: {remedy}', True)


def pinned_requirements() -> list[Requirement]:
    """Return what ``requirements/`` pins for running, in the order of the files.

    Raises:
        FileNotFoundError: The files are missing.
    """
    folder = _requirements_folder()
    requirements = []
    for file in MATCHING_PARTS:
        for line in (folder / file).read_text(encoding='utf-8').splitlines():
            name, separator, version = line.partition('#')[0].strip().partition('==')
            if separator:
                requirements.append(Requirement(name, version, file))
    return requirements


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed(requirement: Requirement) -> tuple[str, str | None]:
    """Name and version of the package that meets a requirement, or of the one that may replace it."""
    version = installed_version(requirement.name)
    if version is None and requirement.name in ALTERNATIVES:
        alternative = ALTERNATIVES[requirement.name][0]
        if installed_version(alternative) is not None:
            return alternative, installed_version(alternative)
    return requirement.name, version


def _requirements_folder() -> Path:
    """Find the pins: inside the package when installed from a wheel, beside ``code/`` in a checkout."""
    for folder in (PACKAGE / 'requirements', CHECKOUT / 'requirements'):
        if (folder / 'torch.txt').is_file():
            return folder
    raise FileNotFoundError(
        f'{CHECKOUT / "requirements"}, which pins the versions, is missing: reinstall thinktwice'
    )


def collect_environment() -> dict[str, str]:
    """Describe the checkout, the interpreter, the installed packages and the devices. Imports torch."""
    environment = {'thinktwice': installed_version('thinktwice') or 'not installed'}
    commit = _git('describe', '--always', '--dirty', '--abbrev=40', '--exclude=*')
    if commit:
        environment['git commit'] = f'{commit} ({_git("rev-parse", "--abbrev-ref", "HEAD")})'
    environment['python'] = platform.python_version()
    environment['platform'] = platform.platform()
    for requirement in pinned_requirements():
        name, version = _installed(requirement)
        environment[name] = version or 'not installed'
    return {**environment, **_devices()}


def _devices() -> dict[str, str]:
    try:
        import torch
    except ImportError:
        return {'devices': 'unknown, torch cannot be imported'}
    devices = {'cpu threads': str(torch.get_num_threads()), 'cuda build': torch.version.cuda or 'none'}
    if torch.cuda.is_available():
        devices['cudnn'] = str(torch.backends.cudnn.version())
        devices['nccl'] = '.'.join(map(str, torch.cuda.nccl.version()))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f'cuda:{index}'] = f'{properties.name}, {properties.total_memory / 2**30:.0f} GiB'
    return devices


def _git(*arguments: str) -> str:
    """Output of a git command in the checkout; empty if there is no git, or no checkout."""
    if not (CHECKOUT / '.git').exists():  # git would look further up
        return ''
    try:
        answer = subprocess.run(
            ['git', '-C', str(CHECKOUT), *arguments],
            capture_output=True,
            encoding='utf-8',
            errors='replace',
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return answer.stdout.strip() if answer.returncode == 0 else ''


def write_environment(folder: str | Path, environment: dict[str, str]) -> None:
    """Write ``environment.json`` and, with uncommitted changes, ``uncommitted.diff`` to a run's log folder.

    Args:
        folder: The folder, which exists.
        environment: What ``collect_environment`` returned.
    """
    content = {'command': sys.argv, 'environment': environment}
    (Path(folder) / 'environment.json').write_text(json.dumps(content, indent=1), encoding='utf-8')
    diff = _git('diff', 'HEAD')
    if diff:
        (Path(folder) / 'uncommitted.diff').write_text(diff + '\n', encoding='utf-8')


if __name__ == '__main__':
    found_problems = find_problems()
    sys.stderr.writelines(f'{problem.message}\n' for problem in found_problems)
    raise SystemExit(bool(found_problems))
