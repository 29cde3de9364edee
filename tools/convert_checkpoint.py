r"""Convert weights between the official 2023 checkpoint and this framework.

The direction follows from the names in the file. Files are read without running any
code they may hold. A file that does not fit the config's model is reported in a table
and nothing is written (exit code 1); so is an unreadable or unsafe file (exit code 2).

Examples:
    python tools/convert_checkpoint.py thinktwice.pth ckpt/thinktwice_reference.pth
    python tools/convert_checkpoint.py thinktwice.pth ckpt/thinktwice.safetensors
    python tools/convert_checkpoint.py work_dirs/run/epoch_60.pth official.pth --to official \
        --config configs/thinktwice.py
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parse_args() -> argparse.Namespace:
    """The command line; ``--help`` describes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, help='.pth or .safetensors file to read')
    parser.add_argument(
        'target', type=Path, nargs='?', help='file to write; its suffix selects the format; none: check only'
    )
    parser.add_argument(
        '--config',
        type=Path,
        default=ROOT / 'configs' / 'thinktwice_reference.py',
        help="config whose model the weights of this framework's side belong to",
    )
    parser.add_argument(
        '--to',
        choices=('auto', 'ours', 'official'),
        default='auto',
        help='direction; auto: away from the format whose names the file has',
    )
    parser.add_argument('--force', action='store_true', help='replace an existing target')
    return parser.parse_args()


def main() -> int:
    """Convert one file; see the module's docstring for the exit codes."""
    args = parse_args()
    if args.target is not None and args.target.exists() and not args.force:
        print(f'{args.target} exists; give another name or --force', file=sys.stderr)
        return 2
    from thinktwice.release_2023.checkpoint.convert_file import convert_file

    try:
        outcome = convert_file(args.source, args.target, args.config, direction=args.to)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(outcome.summary())
    if outcome.conversion.report.is_complete:
        return 0
    print(f'compared with {args.config}: if the file belongs to another config, name that with --config')
    return 1


if __name__ == '__main__':
    sys.exit(main())
