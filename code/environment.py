"""What is installed, compared with what ``requirements/`` pins, before anything heavy is imported.

This module stands outside the subpackages and imports the standard library only, so
that it can speak where torch or mmengine are missing.
"""

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent

#: A start-up with another version of these is refused: they were tested together and with no other.
STRICT_FILES = ('torch.txt', 'openmmlab.txt')
#: A start-up with another version of these warns; without one of them it is refused.
LENIENT_FILES = ('runtime.txt',)
#: pip must not follow what these declare; see the comment in the file.
NO_DEPENDENCIES_FILE = 'openmmlab.txt'

#: What may stand in for a pinned distribution: its name, lowest version, first version too high.
ALTERNATIVES = {'mmcv-lite': ('mmcv', (2, 0, 0), (2, 2, 0))}


@dataclass(frozen=True)
class Requirement:
    """One pinned distribution.

    Attributes:
        name: distribution name.
        version: pinned version.
        file: name of the requirements file that pins it.
    """

    name: str
    version: str
    file: str

    @property
    def remedy(self) -> str:
        """What to do about it, with the command."""
        no_dependencies = '--no-deps ' if self.file == NO_DEPENDENCIES_FILE else ''
        command = f'{sys.executable} -m pip install {no_dependencies}{self.name}=={self.version}'
        in_checkout = _requirements_folder().parent == CHECKOUT
        return f'run `make setup`, or `{command}`' if in_checkout else f'run `{command}`'


@dataclass(frozen=True)
class Problem:
    """Something wrong with a requirement.

    Attributes:
        message: what is wrong and the command that mends it, one line.
        is_fatal: whether a start-up is refused.
    """

    message: str
    is_fatal: bool


def check_environment() -> None:
    """Call at the start of a command, before torch or mmengine are imported.

    Writes one line to stderr for each problem, and ends the process if one is fatal.

    Raises:
        SystemExit: with code 1, if a dependency is missing or a strict one has another version.
    """
    problems = find_problems()
    is_first_process = os.environ.get('RANK', '0') == '0'
    for problem in problems:
        if is_first_process:
            sys.stderr.write(f'{"error" if problem.is_fatal else "warning"}: {problem.message}\n')
    if any(problem.is_fatal for problem in problems):
        raise SystemExit(1)


def find_problems() -> list[Problem]:
    """Compare installed versions with the pinned ones."""
    problems = []
    for requirement in pinned_requirements():
        found = installed_version(requirement.name)
        if found == requirement.version or (found is None and _has_alternative(requirement.name)):
            continue
        if found is None:
            problems.append(Problem(f'{requirement.name} is missing: {requirement.remedy}', True))
        else:
            state = f'{requirement.name} {found} is installed, {requirement.version} is needed'
            problems.append(Problem(f'{state}: {requirement.remedy}', requirement.file in STRICT_FILES))
    return problems


def pinned_requirements() -> list[Requirement]:
    """Return what ``requirements/`` pins for running, in the order of the files.

    Raises:
        FileNotFoundError: if the files are gone.
    """
    folder = _requirements_folder()
    requirements = []
    for file in (*STRICT_FILES, *LENIENT_FILES):
        for line in (folder / file).read_text(encoding='utf-8').splitlines():
            name, separator, version = line.partition('#')[0].strip().partition('==')
            if separator:
                requirements.append(Requirement(name, version, file))
    return requirements


def installed_version(name: str) -> str | None:
    """Return the version of a distribution without its local part (``+cu130``), None if missing."""
    try:
        return importlib.metadata.version(name).partition('+')[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def collect_environment() -> dict[str, str]:
    """Describe the interpreter, the versions of what is installed and the devices. Imports torch."""
    environment = {
        'thinktwice': installed_version('thinktwice') or 'not installed',
        'python': platform.python_version(),
        'platform': platform.platform(),
    }
    for requirement in pinned_requirements():
        name = requirement.name
        if installed_version(name) is None and _has_alternative(name):
            name = ALTERNATIVES[name][0]
        environment[name] = installed_version(name) or 'not installed'
    return environment | _devices()


def _devices() -> dict[str, str]:
    try:
        import torch
    except ImportError:
        return {'devices': 'unknown, torch cannot be imported'}
    devices = {'cpu threads': str(torch.get_num_threads()), 'cuda build': torch.version.cuda or 'none'}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f'cuda:{index}'] = f'{properties.name}, {properties.total_memory / 2**30:.0f} GiB'
    return devices


def _has_alternative(name: str) -> bool:
    """Tell whether a distribution that may stand in for this one is installed, in a version that works."""
    if name not in ALTERNATIVES:
        return False
    alternative, lowest, too_high = ALTERNATIVES[name]
    version = installed_version(alternative)
    if version is None:
        return False
    numbers = tuple(int(part) for part in version.split('.')[:2] if part.isdigit())
    return lowest <= (*numbers, 0) < too_high


def _requirements_folder() -> Path:
    """Find the pins: inside the package when installed from a wheel, beside ``code/`` in a checkout."""
    for folder in (PACKAGE / 'requirements', CHECKOUT / 'requirements'):
        if (folder / STRICT_FILES[0]).is_file():
            return folder
    raise FileNotFoundError(
        f'{CHECKOUT / "requirements"} is missing, which pins the versions: reinstall thinktwice'
    )


if __name__ == '__main__':
    found_problems = find_problems()
    sys.stderr.writelines(f'{problem.message}\n' for problem in found_problems)
    raise SystemExit(bool(found_problems))
