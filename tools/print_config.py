"""Print a resolved config: ``python tools/print_config.py CONFIG [--cfg-options KEY=VALUE ...]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from thinktwice.command_line import Parser, add_override_flag, run_command

EXAMPLE = 'example: python tools/print_config.py configs/thinktwice.py --cfg-options is_dev=True'


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser('Print a config with overrides applied and every derived value.', epilog=EXAMPLE)
    parser.add_argument('config', help='config file')
    add_override_flag(parser)
    parser.add_argument('--out', metavar='FILE', help='write to a file instead')
    arguments = parser.parse_args(argv)
    from thinktwice.config.load import load_config
    from thinktwice.files import write_text

    cfg = load_config(arguments.config, arguments.cfg_options)
    if arguments.out:
        write_text(Path(arguments.out), cfg.pretty_text)
    else:
        sys.stdout.write(cfg.pretty_text)


if __name__ == '__main__':
    sys.exit(run_command(main))
