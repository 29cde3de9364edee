"""Entrance of training: ``python train.py CONFIG [flags]``; ``--help`` lists the flags."""

import sys

NOT_INSTALLED = 'error: thinktwice is not installed for {}: run `make setup`, then use .venv/bin/python'


def main() -> int:
    """Check the environment, then train; returns the exit code."""
    try:
        from thinktwice.environment import check_environment
    except ModuleNotFoundError:
        sys.exit(NOT_INSTALLED.format(sys.executable))
    check_environment()

    from thinktwice.apis import train
    from thinktwice.apis.command_line import run_command

    return run_command(train.main)


if __name__ == '__main__':
    sys.exit(main())
