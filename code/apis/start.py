"""Start of every command: check what is installed, then import and run."""

import importlib

from thinktwice.environment import check_environment


def start(module: str) -> int:
    """Run ``main`` of a module, after a check of what is installed.

    Args:
        module: Module with a function ``main(argv)``, imported after the check, so that a
            missing package is named in one line.

    Returns:
        The exit code.
    """
    check_environment()
    from thinktwice.apis.command_line import run_command

    return run_command(importlib.import_module(module).main)
