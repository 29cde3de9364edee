"""Commands as users type them."""

import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

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


def exit_with(run: Callable[[], Any]) -> NoReturn:
    """End this forked process after a function: with its result if that is an int, 1 if it raised, else 0."""
    try:
        result = run()
        code = result if isinstance(result, int) else 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def load_command(path: str) -> dict[str, Any]:
    """Return the names of a command's file, such as ``tools/test.py``, by its path from the root."""
    return runpy.run_path(str(REPOSITORY / path))


def command(path: str) -> Callable[[Sequence[str]], int]:
    """Return a function that runs a command in this process and returns its exit code."""
    main = load_command(path)['main']
    return lambda argv: run_command(main, argv)
