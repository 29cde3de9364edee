"""Show the config that a run would use: what ``tools/print_config.py`` does."""

import argparse
import sys
from collections.abc import Sequence

from thinktwice.command_line import KeyValueAction
from thinktwice.config.load import load_config

EXAMPLE = 'example: python tools/print_config.py configs/thinktwice.py --cfg-options is_dev=True'


def main(argv: Sequence[str] | None = None) -> int:
    """Print the config with overrides applied and everything derived.

    Args:
        argv: Arguments, None for those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        description='Print a config, overrides applied and everything derived.', epilog=EXAMPLE
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValueAction, metavar='KEY=VALUE', help='overrides'
    )
    parser.add_argument('--out', metavar='FILE', help='write to a file instead')
    arguments = parser.parse_args(argv)
    cfg = load_config(arguments.config, arguments.cfg_options)
    if arguments.out:
        cfg.dump(arguments.out)
    else:
        sys.stdout.write(cfg.pretty_text)
    return 0
