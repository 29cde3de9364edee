"""Commands as users type them."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from thinktwice.command_line import run_command

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join(filter(None, ['tests', 'tests/helpers', os.environ.get('PYTHONPATH')]))


def run_python(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess:
    """Run Python with arguments from the root, as a user would; returns the finished process."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, 'PYTHONPATH': PYTHONPATH, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def load_command(path: str) -> dict[str, Any]:
    """Return the names of a command's file, such as ``tools/test.py``, by its path from the root."""
    return runpy.run_path(str(REPOSITORY / path))


def command(path: str) -> Callable[[Sequence[str]], int]:
    """Return a function that runs a command in this process and returns its exit code."""
    main = load_command(path)['main']
    return lambda argv: run_command(main, argv)
