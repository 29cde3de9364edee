"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``; ``--help`` lists the flags."""

import argparse
import sys
from collections.abc import Sequence

from thinktwice.command_line import Parser, add_run_flags, run_command

EXAMPLE = """example:
  python tools/test.py configs/thinktwice_minitown.py work_dirs/thinktwice_minitown/best_open_loop_ade.pth
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser('Evaluate a checkpoint on the test split.', epilog=EXAMPLE)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='FILE', help='write the metrics to a JSON file')
    parser.add_argument(
        '--reliance',
        action='store_true',
        help='evaluate again with each input exchanged among the samples (one more pass per input)',
    )
    add_run_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parse_arguments(argv)
    from thinktwice.apis import test

    test(
        arguments.config,
        arguments.checkpoint,
        out=arguments.out,
        work_dir=arguments.work_dir,
        cfg_options=arguments.cfg_options,
        launcher=arguments.launcher,
        trust_checkpoint=arguments.trust_checkpoint,
        reliance=arguments.reliance,
    )


if __name__ == '__main__':
    sys.exit(run_command(main))
