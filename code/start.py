"""Start of every command: check what is installed, then import and run."""

import importlib
import os
import sys

from thinktwice.environment import check_environment
from thinktwice.errors import INTERRUPTED_EXIT_CODE


def start(module: str) -> int:
    """Run ``main`` of a module, after a check of what is installed.

    Args:
        module: Module with a function ``main(argv)``, imported after the check, so that a
            missing package is named in one line.

    Returns:
        The exit code.
    """
    try:
        check_environment()
        from thinktwice.command_line import run_command

        command = importlib.import_module(module).main
    except KeyboardInterrupt:
        if os.environ.get('RANK', '0') == '0':
            sys.stderr.write('interrupted\n')
        return INTERRUPTED_EXIT_CODE
    return run_command(command)
